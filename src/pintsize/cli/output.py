"""What commands print: tables and text for people, or one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from ..tables import jsonable

if TYPE_CHECKING:
    from ..data import Data
    from ..tasks import Task


def emit(values: Mapping[str, Any] | list[Any], *shown: object, as_json: bool) -> None:
    """Print `values` as JSON, or `shown`, one after the other.

    On a terminal, what rich can draw is drawn (without colours where `NO_COLOR` is set); elsewhere all is
    plain text, whole, however wide: of an object with a `table()`, its table.
    """
    if as_json:
        typer.echo(json.dumps(jsonable(values), indent=1, ensure_ascii=False))
        return
    for part in shown:
        if sys.stdout.isatty() and (hasattr(part, "__rich__") or hasattr(part, "__rich_console__")):
            from rich.console import Console

            Console().print(part)
        else:
            typer.echo(part.table() if hasattr(part, "table") else str(part))


def compared(before: float, after: float, images: Data) -> tuple[dict[str, Any], str]:
    """Accuracy, or another metric, on the validation images before and after, for programs and for people."""
    values, text = judged(after, images)
    key = next(iter(values))
    metric = _task(images).judged()
    return (
        {f"{key}_before": before, **values, "drop": metric.worse(before, after)},
        f"{text}, {metric.told(before)} before",
    )


def judged(value: float, images: Data) -> tuple[dict[str, Any], str]:
    """Accuracy, or another metric, on the validation images, for programs and for people."""
    task = _task(images)
    metric = task.judged()
    own = task.key != "accuracy"
    named = {"metric_name": metric.name, "metric_unit": metric.unit} if own else {}
    told = f"{metric.name} {metric.told(value)}" if own else f"{value:.2f} %"
    return {f"val_{task.key}": value, **named}, f"{told} on {len(images.val)} validation images"


def _task(images: Data) -> Task:
    from ..tasks import task_of

    return task_of(None, images)
