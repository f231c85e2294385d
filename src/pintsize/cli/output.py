"""What commands print: tables and text for people, or one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from ..tables import jsonable
from ..units import ACCURACY, Scale

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
    key, scale = next(iter(values)), _scale(images)
    return (
        {f"{key}_before": before, **values, "drop": scale.worse(before, after)},
        f"{text}, {scale.told(before)} before",
    )


def judged(value: float, images: Data) -> tuple[dict[str, Any], str]:
    """Accuracy, or another metric, on the validation images, for programs and for people."""
    scale = _scale(images)
    told = scale.told(value) if scale.is_accuracy else f"{scale.metric} {scale.told(value)}"
    return figures(value, images, "val_"), f"{told} on {len(images.val)} validation images"


def figures(value: float, images: Data, prefix: str = "") -> dict[str, Any]:
    """Accuracy, or another metric with what it is, as a row has it."""
    return {f"{prefix}{_task(images).key}": value, **_scale(images).named()}


def _scale(images: Data) -> Scale:
    task = _task(images)
    return ACCURACY if task.key == "accuracy" else task.judged().scale


def _task(images: Data) -> Task:
    from ..tasks import task_of

    return task_of(None, images)
