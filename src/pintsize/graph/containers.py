"""Sizes that a module keeps in tuples, lists and dictionaries: `self.shape = (channels, 1, 1)`, `{"heads": 8}`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

Shapes = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
"""Shapes before and after of the tensors that a module makes with sizes it is told."""

# What no view is told, though its numbers may happen to be those of a shape.
_NEVER = re.compile(r"kernel|stride|pad|dilat|window|patch|image|img|resol|scale", re.IGNORECASE)


def resized(module: nn.Module, shapes: Shapes) -> dict[str, Any]:
    """Attribute → new value of all containers of `module` in which a size has changed unambiguously."""
    found = {}
    for key, value in vars(module).items():
        if key.startswith("_") and not isinstance(value, tuple | list | dict):
            continue
        if isinstance(value, tuple | list | dict) and key not in _TORCHS and not _NEVER.search(key):
            new = _new(value, shapes)
            if new is not value:
                found[key] = new
    return found


_TORCHS = set(vars(nn.Module()))


def _new(value: Any, shapes: Shapes) -> Any:
    """The value with new sizes; itself where nothing changes."""
    if isinstance(value, dict):
        items = {
            key: one if isinstance(key, str) and _NEVER.search(key) else _element(one, shapes)
            for key, one in value.items()
        }
        return items if any(items[key] is not value[key] for key in items) else value
    if not isinstance(value, tuple | list) or not value:
        return value
    if all(type(one) is int for one in value):
        return _run(value, shapes)
    parts = [_element(one, shapes) for one in value]
    return parts if any(new is not old for new, old in zip(parts, value, strict=True)) else value


def _element(value: Any, shapes: Shapes) -> Any:
    if type(value) is not int:
        return _new(value, shapes)
    changed = {
        new
        for old_shape, new_shape in shapes
        for old, new in zip(old_shape, new_shape, strict=True)
        if old == value
    }
    return changed.pop() if value > 1 and len(changed) == 1 and changed != {value} else value


def _run(sizes: Sequence[int], shapes: Shapes) -> Any:
    """A run of sizes that stand side by side in a shape (-1 for any), by what becomes of those; else one by one."""
    results: set[tuple[int, ...]] = set()
    for old, new in shapes:
        for start in range(len(old) - len(sizes) + 1):
            part, kept = old[start : start + len(sizes)], new[start : start + len(sizes)]
            if all(size in (-1, there) for size, there in zip(sizes, part, strict=True)):
                results.add(tuple(-1 if size == -1 else to for size, to in zip(sizes, kept, strict=True)))
    if len(results) == 1:
        (only,) = results
        return sizes if only == tuple(sizes) else only
    if results:
        return sizes
    parts = [_element(size, shapes) for size in sizes]
    return sizes if parts == list(sizes) else tuple(parts)


def like(old: Any, new: Any) -> Any:
    """`new`, which may come from JSON, as an object of the types of `old`."""
    if isinstance(old, dict) and isinstance(new, dict):
        by_text = {str(key): one for key, one in new.items()}
        made = {key: like(one, by_text.get(str(key), one)) for key, one in old.items()}
        return made if type(old) is dict else type(old)(made)
    if isinstance(old, tuple | list) and isinstance(new, tuple | list):
        parts = [like(a, b) for a, b in zip(old, new, strict=True)] if len(old) == len(new) else list(new)
        return type(old)(*parts) if hasattr(old, "_fields") else type(old)(parts)
    return new
