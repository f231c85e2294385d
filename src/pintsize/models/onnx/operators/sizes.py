"""Operators on what is computed from shapes."""

from __future__ import annotations

from typing import Any

import torch

from ..building import Op
from .table import of_sizes, operator
from .types import torch_type

_TWO = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Mod": "mod", "Pow": "pow", "Equal": "eq", "Greater": "gt",
    "Less": "lt", "GreaterOrEqual": "ge", "LessOrEqual": "le", "And": "logical_and", "Or": "logical_or",
}  # fmt: skip
_ONE = {
    "Floor": "floor", "Ceil": "ceil", "Round": "round", "Neg": "neg", "Abs": "abs", "Sqrt": "sqrt", "Not": "logical_not",
}  # fmt: skip


def plain(op: Op, index: int) -> Any:
    """An input as it stands in the program: a constant as a list of numbers."""
    value = op.value(index)
    return value.data.tolist() if value.kind == "constant" else value


@operator("Shape")
def shape(op: Op) -> None:
    """Of a tensor: a constant where no dimension of the file is open."""
    start, end = op.attribute("start", 0), op.attribute("end")
    if op.builder.static or op.is_constant(0):
        op.keep(torch.tensor(op.shape()[start:end], dtype=torch.int64))
    else:
        op.call("shape", op.value(0), start=start, end=end)


@operator("Size")
def size(op: Op) -> None:
    """Number of values."""
    if op.builder.static or op.is_constant(0):
        op.keep(torch.tensor(op.value(0).data.numel()))
    else:
        op.call("size", op.value(0))


@of_sizes(*_TWO)
def two(op: Op) -> None:
    """Arithmetic and comparison."""
    op.call("sizes_two", plain(op, 0), plain(op, 1), how=_TWO[op.type])


@of_sizes(*_ONE)
def one(op: Op) -> None:
    """Arithmetic of one."""
    op.call("sizes_one", plain(op, 0), how=_ONE[op.type])


@of_sizes("Identity")
def same(op: Op) -> None:
    """Itself."""
    op.alias(op.value(0))


@of_sizes("Gather")
def gather(op: Op) -> None:
    """Entries by number."""
    op.call("sizes_gather", plain(op, 0), plain(op, 1), axis=op.attribute("axis", 0))


@of_sizes("Slice")
def slices(op: Op) -> None:
    """Entries from one to another."""
    steps = op.numbers(4)
    op.call(
        "sizes_slice",
        plain(op, 0),
        op.numbers(1, "starts"),
        op.numbers(2, "ends"),
        op.numbers(3, "axes"),
        steps,
    )


@of_sizes("Concat")
def concat(op: Op) -> None:
    """One behind the other."""
    op.call("sizes_concat", *(plain(op, k) for k in range(len(op.inputs))), axis=op.attribute("axis", 0))


@of_sizes("Reshape")
def reshape(op: Op) -> None:
    """In another arrangement."""
    op.call("sizes_reshape", plain(op, 0), op.numbers(1, "shape"))


@of_sizes("Unsqueeze")
def unsqueeze(op: Op) -> None:
    """With dimensions more."""
    op.call("sizes_unsqueeze", plain(op, 0), op.numbers(1, "axes"))


@of_sizes("Squeeze")
def squeeze(op: Op) -> None:
    """With dimensions less."""
    op.call("sizes_squeeze", plain(op, 0), op.numbers(1, "axes"))


@of_sizes("Transpose")
def transpose(op: Op) -> None:
    """With dimensions in another order."""
    op.call("sizes_transpose", plain(op, 0), op.attribute("perm"))


@of_sizes("Expand")
def expand(op: Op) -> None:
    """Repeated."""
    op.call("sizes_expand", plain(op, 0), op.numbers(1))


@of_sizes("Split")
def split(op: Op) -> None:
    """In parts."""
    axis = op.attribute("axis", 0)
    count = len(op.outputs)
    even = (op.shape()[axis] // count,) * count
    op.call("sizes_split", plain(op, 0), op.numbers(1, "split", even), axis=axis)


@of_sizes("Where")
def where(op: Op) -> None:
    """From one or the other."""
    op.call("sizes_where", plain(op, 0), plain(op, 1), plain(op, 2))


@of_sizes("Cast", "CastLike")
def cast(op: Op) -> None:
    """As integers, floating-point numbers or truth values."""
    op.call("sizes_cast", plain(op, 0), torch_type(op))


@of_sizes("Max", "Min")
def extreme(op: Op) -> None:
    """The largest or smallest of several."""
    op.call(f"sizes_{op.type.lower()}", *(plain(op, k) for k in range(len(op.inputs))))


@of_sizes("Clip")
def clip(op: Op) -> None:
    """Between two bounds."""
    value = plain(op, 0)
    for index, target in ((1, "sizes_max"), (2, "sizes_min")):
        if op.has(index):
            value = op.between(target, value, plain(op, index))
    op.alias(value)


@of_sizes("ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin")
def reduce(op: Op) -> None:
    """Along dimensions."""
    op.call(
        "sizes_reduce",
        plain(op, 0),
        how=op.type.removeprefix("Reduce").lower(),
        axes=op.numbers(1, "axes"),
        keepdims=bool(op.attribute("keepdims", 1)),
    )
