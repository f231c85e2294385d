"""The steps of a record in words: a line each, what is long is counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def step_texts(record: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Kind and options of each step of a record's document."""
    steps = (record or {}).get("steps")
    return [
        {"kind": str(step.get("kind", "?")), "options": options_text(step)}
        for step in (steps if isinstance(steps, list) else ())
        if isinstance(step, Mapping)
    ]


def options_text(step: Mapping[str, Any]) -> str:
    """The options of one step."""
    return ", ".join(_option(key, value) for key, value in step.items() if key != "kind")


def _option(name: str, value: Any) -> str:
    if isinstance(value, Mapping | list):
        kinds = {str(item) for item in (value.values() if isinstance(value, Mapping) else value)}
        same = f" × {kinds.pop()}" if len(kinds) == 1 and len(max(kinds)) < 12 else ""
        return f"{name}: {len(value)}{same}"
    return f"{name}={value}"
