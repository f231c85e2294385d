"""Numbers of bits as recipes and command lines write them: one for all layers, or by layer pattern."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError

BitsOption = int | None | dict[str, int | None]
"""Bits of all layers, or pattern → bits; None leaves a layer in floating point."""

NONE = ("none", "null")
"""How a text says None."""
_REMEDY = (
    "write a whole number, none for floating point, or pattern=bits,pattern=bits as in layer1.*=4,fc=none"
)


def read_bits(value: Any) -> BitsOption:
    """`8`, `none`, `layer1.*=4,fc=none` or a mapping, as `pintsize.quantize` takes it.

    Raises:
        InputError: it is none of these, or a pattern is given twice.
    """
    if isinstance(value, str) and "=" in value:
        chosen: dict[str, int | None] = {}
        for part in value.split(","):
            pattern, _, bits = (each.strip() for each in part.rpartition("="))
            if pattern in chosen:
                raise InputError(f"{value!r}", f"the pattern {pattern!r} is given twice", "leave one out")
            chosen |= _of_pattern(pattern, bits)
        return chosen
    if isinstance(value, Mapping):
        if not value:
            raise InputError(f"{value!r}", "it names no layer", _REMEDY)
        return {name: bits for pair in value.items() for name, bits in _of_pattern(*pair).items()}
    return _count(value, repr(value))


def widths(bits: Mapping[str, int | None] | int | None) -> set[int | None]:
    """The numbers of bits that an option names."""
    return set(bits.values()) if isinstance(bits, Mapping) else {bits}


def _of_pattern(pattern: Any, bits: Any) -> dict[str, int | None]:
    if not isinstance(pattern, str) or not pattern:
        raise InputError(f"'{pattern}={bits}'", "it names no layer", _REMEDY)
    return {pattern: _count(bits, f"'{pattern}={bits}'")}


def _count(value: Any, what: str) -> int | None:
    if value is None or value in NONE:
        return None
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            if int(value) == float(value):
                return int(value)
        except (ValueError, OverflowError):
            pass  # refused below, like all else
    raise InputError(what, f"{value!r} is no number of bits", _REMEDY)
