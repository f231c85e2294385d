"""Lists of numbers as command lines write them."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InputError


def numbers(option: str, text: str) -> list[float]:
    """`0.1,0.5` as numbers.

    Raises:
        InputError: it is no such list.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {text!r}", "it is no list of numbers", "write e.g. 0.1,0.5,0.9") from None


def by_pattern(option: str, text: str) -> Mapping[str, float] | list[float]:
    """`0.1,0.5` as numbers, `layer1.*=0.1,fc=0.5` as numbers by pattern."""
    if "=" not in text:
        return numbers(option, text)
    pairs = [part.rpartition("=") for part in text.split(",")]
    return {name: numbers(option, value)[0] for name, _, value in pairs}
