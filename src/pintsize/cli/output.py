"""What commands print: text for people, or one JSON object for programs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer


def emit(values: Mapping[str, Any] | list[Any], text: str, *, as_json: bool) -> None:
    """Print `values` as JSON, or `text`."""
    typer.echo(json.dumps(jsonable(values), indent=1, ensure_ascii=False) if as_json else text)


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
