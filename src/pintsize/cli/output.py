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


def compared(before: float, after: float, images: Data) -> tuple[dict[str, float], str]:
    """Accuracy on the validation images before and after, for programs and for people."""
    values = {"val_accuracy_before": before, "val_accuracy": after, "drop": before - after}
    return values, f"{after:.2f} % on {len(images.val)} validation images, {before:.2f} % before"
