"""The tables that the modules beside this one fill."""

from __future__ import annotations

from collections.abc import Callable

from ..building import Operator

OPERATORS: dict[str, Operator] = {}
"""ONNX operator → what notes it."""
SIZES: dict[str, Operator] = {}
"""The same where all that it computes with comes from shapes."""


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Decorator: it notes the operators of these names."""

    def add(target: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, target))
        return target

    return add


def of_sizes(*names: str) -> Callable[[Operator], Operator]:
    """As `operator`, for what is computed from shapes."""

    def add(target: Operator) -> Operator:
        SIZES.update(dict.fromkeys(names, target))
        return target

    return add
