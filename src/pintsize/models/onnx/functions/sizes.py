"""Arithmetic of shapes: NumPy arrays of Python's integers, some of them open while a file is being written.

What ONNX computes with tensors (Shape, Gather, Concat, Reshape …) is done with numbers here: torch's exporter keeps a
dimension open only as long as it is never read out of a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .table import creates, function, whole

Sizes = Any
"""An array of integers, or what is put into one."""


def array(value: Any) -> np.ndarray[Any, Any]:
    """As an array that keeps Python's own numbers."""
    if isinstance(value, np.ndarray):
        return value.astype(object)
    if isinstance(value, Tensor):
        return np.array(value.tolist(), dtype=object)
    return np.array(value, dtype=object)


@creates
def tensor(sizes: Sizes, device: torch.device | None = None) -> Tensor:
    """Sizes as a tensor: int64, float32 or bool."""
    values = array(sizes)
    flat = list(values.reshape(-1))
    kind = torch.int64
    if any(isinstance(one, float | torch.SymFloat) for one in flat):
        kind = torch.float32
    elif flat and all(isinstance(one, bool | np.bool_) for one in flat):
        kind = torch.bool
    if not any(isinstance(one, torch.SymInt | torch.SymFloat) for one in flat):
        return torch.tensor(flat, dtype=kind, device=device).reshape(values.shape)
    parts = [torch.scalar_tensor(one, dtype=kind, device=device) for one in flat]
    return torch.stack(parts).reshape(values.shape)


@function
def shape(x: Any, start: int = 0, end: int | None = None) -> Sizes:
    """Of a tensor."""
    return array(list(x.shape)[start:end])


@function
def size(x: Any) -> Sizes:
    """How many values a tensor has."""
    return array(math.prod(x.shape))


@function
def sizes_gather(x: Sizes, index: Sizes, axis: int = 0) -> Sizes:
    """Entries by number."""
    return array(np.take(array(x), array(index).astype(np.int64), axis=axis))


@function
def sizes_slice(x: Sizes, starts: Sizes, ends: Sizes, axes: Sizes = None, steps: Sizes = None) -> Sizes:
    """Entries from one to another."""
    x, starts, ends = array(x), whole(starts), whole(ends)
    chosen = [slice(None)] * x.ndim
    for axis, start, end, step in zip(
        whole(axes) if axes is not None else range(len(starts)),
        starts,
        ends,
        whole(steps) if steps is not None else [1] * len(starts),
        strict=True,
    ):
        lowest = step < 0 and end < -x.shape[axis]
        chosen[axis] = slice(start, None if lowest else end, step)
    return x[tuple(chosen)]


@function
def sizes_concat(*parts: Sizes, axis: int = 0) -> Sizes:
    """One behind the other."""
    return np.concatenate([array(part) for part in parts], axis=axis)


@function
def sizes_reshape(x: Sizes, to: Sizes) -> Sizes:
    """In another arrangement."""
    return array(x).reshape([int(one) for one in whole(to)])


@function
def sizes_unsqueeze(x: Sizes, axes: Sizes) -> Sizes:
    """With dimensions of size one more."""
    return np.expand_dims(array(x), tuple(whole(axes)))


@function
def sizes_squeeze(x: Sizes, axes: Sizes = None) -> Sizes:
    """With dimensions of size one less."""
    return np.squeeze(array(x), None if axes is None else tuple(whole(axes)))


@function
def sizes_transpose(x: Sizes, order: Sizes = None) -> Sizes:
    """With dimensions in another order."""
    return np.transpose(array(x), order)


@function
def sizes_expand(x: Sizes, to: Sizes) -> Sizes:
    """Repeated along dimensions of size one."""
    x = array(x)
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(map(int, whole(to)))))


@function
def sizes_split(x: Sizes, parts: Sizes, axis: int = 0) -> tuple[Sizes, ...]:
    """In several parts."""
    return tuple(np.split(array(x), np.cumsum([int(one) for one in whole(parts)])[:-1], axis=axis))


@function
def sizes_where(condition: Sizes, a: Sizes, b: Sizes) -> Sizes:
    """From one or the other."""
    return np.where(array(condition).astype(bool), array(a), array(b))


@function
def sizes_fill(shape: Sizes, value: float) -> Sizes:
    """One value, so many times."""
    return np.full([int(one) for one in whole(shape)], value, dtype=object)


@function
def sizes_cast(x: Sizes, dtype: str) -> Sizes:
    """As integers, floating-point numbers or truth values."""
    if dtype == "bool":
        return _each(bool)(array(x))
    return _each(torch.sym_float if dtype.startswith(("float", "double")) else torch.sym_int)(array(x))


@function
def sizes_max(*values: Sizes) -> Sizes:
    """The largest of several."""
    return _folded(torch.sym_max, values)


@function
def sizes_min(*values: Sizes) -> Sizes:
    """The smallest of several."""
    return _folded(torch.sym_min, values)


@function
def sizes_reduce(x: Sizes, how: str, axes: Sizes = None, keepdims: bool = True) -> Sizes:
    """Sum, product, largest or smallest along dimensions."""
    joined = {"sum": np.add, "prod": np.multiply, "max": _MAX, "min": _MIN}[how]
    x = array(x)
    over = tuple(range(x.ndim)) if axes is None else tuple(whole(axes))
    for axis in sorted((one % max(x.ndim, 1) for one in over), reverse=True):
        x = joined.reduce(x, axis=axis, keepdims=keepdims)
    return array(x)


def _each(target: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`target` for each entry; an array of one dimension less is one entry."""
    return lambda x: array(np.frompyfunc(target, 1, 1)(x))


_MAX, _MIN = np.frompyfunc(torch.sym_max, 2, 1), np.frompyfunc(torch.sym_min, 2, 1)


def _folded(target: Callable[[Any, Any], Any], values: tuple[Sizes, ...]) -> Sizes:
    made = array(values[0])
    for value in values[1:]:
        made = array(np.frompyfunc(target, 2, 1)(made, array(value)))
    return made


def _quotient(a: Any, b: Any) -> Any:
    return a / b if isinstance(a, float | torch.SymFloat) or isinstance(b, float | torch.SymFloat) else a // b


_TWO: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": _quotient,
    "mod": lambda a, b: a % b,
    "pow": lambda a, b: a**b,
    "eq": lambda a, b: bool(a == b),
    "gt": lambda a, b: bool(a > b),
    "lt": lambda a, b: bool(a < b),
    "ge": lambda a, b: bool(a >= b),
    "le": lambda a, b: bool(a <= b),
    "logical_and": lambda a, b: bool(a) and bool(b),
    "logical_or": lambda a, b: bool(a) or bool(b),
}
_ONE: dict[str, Callable[[Any], Any]] = {
    "floor": lambda a: torch.sym_float(math.floor(a)),
    "ceil": lambda a: torch.sym_float(math.ceil(a)),
    "round": lambda a: torch.sym_float(round(a)),
    "neg": lambda a: -a,
    "abs": abs,
    "sqrt": lambda a: torch.sym_sqrt(a) if isinstance(a, torch.SymFloat) else math.sqrt(a),
    "logical_not": lambda a: not a,
}


@function
def sizes_two(a: Sizes, b: Sizes, how: str) -> Sizes:
    """Arithmetic and comparison of two."""
    return array(np.frompyfunc(_TWO[how], 2, 1)(array(a), array(b)))


@function
def sizes_one(a: Sizes, how: str) -> Sizes:
    """Arithmetic of one."""
    return _each(_ONE[how])(array(a))
