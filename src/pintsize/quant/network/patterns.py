"""Which layers get how many bits, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ...errors import InputError, InputTypeError, unknown
from ..grid.quantizer import check_bits

Bits = int | None | Mapping[str, int | None]
"""Bits of all layers, or pattern → bits; None leaves a layer in floating point."""


def bits_of_layers(
    option: str, bits: Bits, layers: Sequence[str], *, lowest: int, edges: int | None
) -> dict[str, int | None]:
    """Bits of each layer.

    Args:
        option: its name, for messages.
        bits: for all layers, or by `fnmatch` pattern of their paths; the first pattern that matches
            counts, and layers that none matches get 8.
        layers: their paths in the order they run.
        lowest: the least number of bits allowed.
        edges: with one number for all, the first and last layer get no fewer than this; None: no exception.

    Raises:
        InputError: bits out of range, or a pattern that matches no layer.
    """
    if isinstance(bits, Mapping):
        return _by_pattern(option, bits, layers, lowest)
    if bits is None:
        return dict.fromkeys(layers)
    everywhere = check_bits(bits, option, lowest=lowest)
    chosen: dict[str, int | None] = dict.fromkeys(layers, everywhere)
    if edges is not None:
        check_bits(edges, "edges", lowest=lowest)
        for layer in (*layers[:1], *layers[-1:]):
            chosen[layer] = max(everywhere, edges)
    return chosen


def at_most(bits: Any, most: int) -> Any:
    """`bits`, one number or by pattern, with none above `most`; what is no number of bits is left to be refused."""
    if isinstance(bits, Mapping):
        return {
            pattern: at_most(count, most) for pattern, count in {**bits, "*": bits.get("*", most)}.items()
        }
    return min(bits, most) if type(bits) is int and most < bits <= 8 else bits


def matches(layer: str, pattern: str) -> bool:
    """Whether the `fnmatch` pattern names `layer` or a module that holds it."""
    parts = layer.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def matching(option: str, patterns: Sequence[str], layers: Sequence[str]) -> set[str]:
    """The layers that any of `patterns` matches; one that matches none is an `InputError`."""
    if isinstance(patterns, str):
        raise InputTypeError(
            f"{option}={patterns!r}", "it is one string, not several patterns", f"pass ({patterns!r},)"
        )
    found: set[str] = set()
    for pattern in patterns:
        hits = {layer for layer in layers if matches(layer, pattern)}
        if not hits:
            raise _no_match(option, pattern, layers)
        found |= hits
    return found


def _by_pattern(
    option: str, bits: Mapping[str, int | None], layers: Sequence[str], lowest: int
) -> dict[str, int | None]:
    chosen: dict[str, int | None] = {}
    for pattern, count in bits.items():
        if count is not None:
            check_bits(count, f"{option}[{pattern!r}]", lowest=lowest)
        if not any(matches(layer, pattern) for layer in layers):
            raise _no_match(option, pattern, layers)
    for layer in layers:
        chosen[layer] = next((count for pattern, count in bits.items() if matches(layer, pattern)), 8)
    return chosen


def _no_match(option: str, pattern: str, layers: Sequence[str]) -> InputError:
    error = unknown("layer", pattern, layers)
    return InputError(
        f"pattern {pattern!r} in {option}", "it matches no layer that can be quantized", error.remedy
    )
