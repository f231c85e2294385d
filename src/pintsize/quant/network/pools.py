"""By what average pools divide: the number of values in a window, which may be smaller at the border."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from ...graph.trace import Op


def divisors(op: Op) -> tuple[int, ...]:
    """The numbers by which the sums of windows are divided, ascending; none if `op` is no average pool or mean."""
    name = op.func.overloadpacket.__name__
    if name == "mean":
        shape = op.inputs[0].shape
        given = op.args[1] if len(op.args) > 1 else op.kwargs.get("dim")
        return (math.prod(shape[dim] for dim in given) if given else math.prod(shape),)
    if "avg_pool" not in name:
        return ()
    dims = int(name[-2])
    sides = [*zip(op.inputs[0].shape[-dims:], op.outputs[0].shape[-dims:], strict=True)]
    if "adaptive" in name:
        lengths = [
            {-(-(at + 1) * size // number) - at * size // number for at in range(number)}
            for size, number in sides
        ]
    else:
        kernel, stride, padding, _, include_pad, override = _options(op, dims)
        if override is not None:
            return (int(override),)
        lengths = [
            _lengths(side, *how, include_pad=include_pad)
            for side, *how in zip(sides, kernel, stride, padding, strict=True)
        ]
    return tuple(sorted({math.prod(window) for window in itertools.product(*lengths)}))


def _options(op: Op, dims: int) -> tuple[Any, ...]:
    """Kernel, stride, padding, ceil_mode, count_include_pad, divisor_override."""
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    given = {"stride": (), "padding": (0,), "count_include_pad": True, **op.kwargs}
    given.update(zip(names, op.args[1:], strict=False))
    given["stride"] = given["stride"] or given["kernel_size"]
    for name in names[:3]:
        given[name] = _each(given[name], dims)
    return tuple(given.get(name) for name in names)


def _each(numbers: int | Sequence[int], dims: int) -> list[int]:
    numbers = [numbers] if isinstance(numbers, int) else [*numbers]
    return numbers * dims if len(numbers) == 1 else numbers


def _lengths(side: tuple[int, int], kernel: int, stride: int, padding: int, *, include_pad: bool) -> set[int]:
    """How many places the windows along one dimension have, as torch counts them."""
    size, number = side
    low, high = (-padding, size + padding) if include_pad else (0, size)
    starts = [at * stride - padding for at in range(number)]
    return {min(start + kernel, high) - max(start, low) for start in starts}
