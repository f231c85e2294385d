"""What commands print: tables and text for people, or one JSON object for programs."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

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


def jsonable(value: Any) -> Any:
    """`value` in the types that JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = (field.name for field in dataclasses.fields(value) if field.repr)
        return {name: jsonable(getattr(value, name)) for name in shown}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def compared(before: float, after: float, images: Data) -> tuple[dict[str, float], str]:
    """Accuracy on the validation images before and after, for programs and for people."""
    values = {"val_accuracy_before": before, "val_accuracy": after, "drop": before - after}
    return values, f"{after:.2f} % on {len(images.val)} validation images, {before:.2f} % before"
