"""What a file tells about the images that it takes."""

from __future__ import annotations

import json
from typing import Any

from ...storage.preprocessing import Preprocessing
from .program import Program


def told_of_images(program: Program) -> Preprocessing | None:
    """Size, mean and deviation: from the input's shape, and notes of ours and of Ultralytics; None without a size."""
    port = program.inputs[0] if len(program.inputs) == 1 else None
    shape = port.shape if port is not None and port.dtype == "float32" else None
    if shape is None or len(shape) != 4 or shape[1] not in (1, 3):
        return None
    sides = tuple(shape[2:])
    if not all(isinstance(side, int) for side in sides):
        sides = _pair(_noted(program, "imgsz"))
    if not sides:
        return None
    notes = _noted(program, "pintsize.normalization")
    mean, std = [0.0] * shape[1], [1.0] * shape[1]
    if isinstance(notes, dict) and not notes.get("included"):
        mean, std = notes.get("mean", mean), notes.get("std", std)
    return Preprocessing((int(sides[0]), int(sides[1])), tuple(map(float, mean)), tuple(map(float, std)))  # type: ignore[arg-type]


def _noted(program: Program, key: str) -> Any:
    try:
        return json.loads(program.metadata.get(key, "null"))
    except ValueError:
        return None


def _pair(value: Any) -> tuple[int, ...]:
    fits = isinstance(value, list) and len(value) == 2 and all(type(one) is int and one > 0 for one in value)
    return tuple(value) if fits else ()
