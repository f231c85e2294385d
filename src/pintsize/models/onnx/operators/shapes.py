"""What moves values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..building import Op, Value
from ..functions.pooling import flat
from .table import operator

_FEW = 16
"""Entries: no tensor has more dimensions, and no pad more numbers."""


@operator("Reshape")
def reshape(op: Op) -> None:
    """In another shape; a batch that the file has fixed stays whatever it is."""
    shape = op.numbers(1, "shape")
    stay = bool(op.attribute("allowzero", 0)) and (not isinstance(shape, tuple) or 0 in shape)
    if isinstance(shape, tuple) and not stay and not op.is_constant(0):
        shape = _of_any_batch(op, shape)
    lead = next((k for k, one in enumerate(shape) if one != 0), 0) if isinstance(shape, tuple) else 0
    if isinstance(shape, tuple) and not op.is_constant(0) and _is_flatten(op, shape):
        op.call("flatten", op.value(0), 1)
    elif isinstance(shape, tuple) and op.value(0).kind == "tensor" and not stay and 0 not in shape[lead:]:
        op.module("Reshape", {"sizes": shape[lead:], "lead": lead}, {}, op.value(0))
    else:
        op.call("reshape", op.value(0), shape, zeros_stay=stay)


def _of_any_batch(op: Op, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The same shape for one image in each call, where the file has the number of images as a number in it."""
    fixed = op.builder.fixed
    if fixed is None or len(shape) < 2:
        return shape
    if shape[0] == fixed and op.shape()[:1] == (fixed,):
        return (0, *shape[1:])
    return (-1, *shape[1:]) if all(one > 0 for one in shape) else shape


def _is_flatten(op: Op, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[0] == 0 and op.rank() > 2


@operator("Flatten")
def flatten(op: Op) -> None:
    """Two dimensions."""
    op.call("flatten", op.value(0), op.attribute("axis", 1))


@operator("Transpose")
def transpose(op: Op) -> None:
    """Dimensions in another order."""
    order = op.attribute("perm")
    op.call("transpose", op.value(0), None if order is None else tuple(order))


@operator("Squeeze")
def squeeze(op: Op) -> None:
    """Without dimensions of size one."""
    axes = op.numbers(1, "axes")
    if axes is None:  # not those that are one by chance
        axes = tuple(dim for dim, size in enumerate(op.shape()) if size == 1)
    op.call("squeeze", op.value(0), axes)


@operator("Unsqueeze")
def unsqueeze(op: Op) -> None:
    """With dimensions of size one more."""
    op.call("unsqueeze", op.value(0), op.numbers(1, "axes"))


@operator("Concat")
def concat(op: Op) -> None:
    """One behind the other."""
    parts = [op.value(k) for k in range(len(op.inputs))]
    parts = [one for one in parts if one.kind == "sizes" or one.data.numel()] or parts[:1]
    if len(parts) == 1:
        op.alias(parts[0])
    else:
        op.call("concat", *parts, axis=op.attribute("axis", 1))


@operator("Split")
def split(op: Op) -> None:
    """In parts."""
    axis, parts = op.attribute("axis", 0), op.numbers(1, "split")
    if parts is not None and not (isinstance(parts, tuple) and len({*parts}) == 1):
        op.call("split", op.value(0), parts, axis=axis)
    else:
        count = len(parts) if parts is not None else op.attribute("num_outputs") or len(op.outputs)
        op.call("split_evenly", op.value(0), count, axis=axis)


@operator("Slice")
def slices(op: Op) -> None:
    """From one place to another; attributes before opset 10."""
    op.call(
        "slice",
        op.value(0),
        op.numbers(1, "starts"),
        op.numbers(2, "ends"),
        op.numbers(3, "axes"),
        op.numbers(4),
    )


@operator("Gather")
def gather(op: Op) -> None:
    """Entries by number; from a table of weights, an embedding."""
    table, index, axis = op.value(0), op.value(1), op.attribute("axis", 0)
    if table.kind == "constant" and table.data.dim() == 2 and index.kind == "tensor" and axis == 0:
        settings = {"num_embeddings": table.data.shape[0], "embedding_dim": table.data.shape[1]}
        if table.data.is_floating_point():
            op.module("Embedding", settings, {"weight": table.data}, index, key=("Gather", table.name))
            return
    if index.kind == "constant" and not index.data.dim():
        op.call("gather", table, int(index.data), axis=axis)
    else:
        op.call("gather", table, index, axis=axis)


@operator("GatherElements")
def gather_elements(op: Op) -> None:
    """One entry for each number."""
    op.call("gather_elements", op.value(0), op.value(1), axis=op.attribute("axis", 0))


@operator("GatherND")
def gather_nd(op: Op) -> None:
    """Entries or parts by number."""
    op.call("gather_nd", op.value(0), op.value(1), batch_dims=op.attribute("batch_dims", 0))


@operator("ScatterElements", "Scatter")
def scatter_elements(op: Op) -> None:
    """Some entries replaced."""
    how = op.attribute("reduction", "none")
    op.call(
        "scatter_elements", op.value(0), op.value(1), op.value(2), axis=op.attribute("axis", 0), reduction=how
    )


@operator("ScatterND")
def scatter_nd(op: Op) -> None:
    """Parts replaced."""
    how = op.attribute("reduction", "none")
    if how not in ("none", "add"):
        raise op.unsupported(f"reduction {how} is not known")
    op.call("scatter_nd", op.value(0), op.value(1), op.value(2), reduction=how)


@operator("Expand")
def expand(op: Op) -> None:
    """Repeated along dimensions of size one."""
    shape = op.numbers(1)
    if isinstance(shape, tuple) and op.builder.fixed == 1 and shape[:1] == (1,) and len(shape) == op.rank():
        shape = (1, *shape[1:])
    op.call("expand", op.value(0), shape)


@operator("Tile")
def tile(op: Op) -> None:
    """Repeated whole."""
    op.call("tile", op.value(0), op.numbers(1))


@operator("Pad")
def pad(op: Op) -> None:
    """With values around; attributes before opset 11."""
    value: Any = op.attribute("value", 0.0)
    if op.has(2):
        value = op.operand(2)
        value = (
            value.data.item()
            if not isinstance(value, int | float | bool) and value.kind == "constant"
            else value
        )
    pads = op.numbers(1, "pads")
    mode = op.attribute("mode", "constant")
    if isinstance(pads, tuple) and not any(pads):
        op.alias(op.value(0))
    elif _of_channels(op, pads, mode) and isinstance(value, int | float):
        op.module("ChannelPad", {"padding": flat(pads), "value": float(value)}, {}, op.value(0))
    else:
        op.call("pad", op.value(0), pads, mode, value, op.numbers(3))


def _of_channels(op: Op, pads: Any, mode: str) -> bool:
    """Whether channels are put beside those of a tensor."""
    rank = op.rank()
    whole = isinstance(pads, tuple) and mode == "constant" and not op.has(3) and len(pads) == 2 * rank
    return whole and op.value(0).kind == "tensor" and rank > 2 and bool(pads[1] or pads[rank + 1])


@operator("DepthToSpace")
def depth_to_space(op: Op) -> None:
    """From channels to places."""
    op.call("depth_to_space", op.value(0), op.attribute("blocksize"), op.attribute("mode", "DCR"))


@operator("SpaceToDepth")
def space_to_depth(op: Op) -> None:
    """From places to channels."""
    op.call("space_to_depth", op.value(0), op.attribute("blocksize"))


@operator("Trilu")
def trilu(op: Op) -> None:
    """A triangle of a matrix."""
    k = op.constant(1)
    op.call("trilu", op.value(0), 0 if k is None else int(k), upper=bool(op.attribute("upper", 1)))


@operator("OneHot")
def one_hot(op: Op) -> None:
    """One of two values, where a number says."""
    values = op.constant(2)
    assert values is not None
    op.call("one_hot", op.value(0), op.numbers(1), tuple(values.tolist()), axis=op.attribute("axis", -1))


@operator("Constant")
def constant(op: Op) -> None:
    """A constant."""
    for name, kind in (
        ("value_float", torch.float32),
        ("value_floats", torch.float32),
        ("value_int", torch.int64),
        ("value_ints", torch.int64),
    ):
        if (given := op.attribute(name)) is not None:
            op.keep(torch.tensor(given, dtype=kind))
            return
    given = op.attribute("value")
    if given is None:
        raise op.unsupported("it holds no numbers")
    op.keep(from_file(given), learned=True)


def from_file(tensor: Any) -> Tensor:
    """A tensor of the file, its memory shared where that can be."""
    import ml_dtypes
    import numpy as np

    data = tensor.numpy()
    if data.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(data.view(np.uint16).view(np.int16).copy()).view(torch.bfloat16)
    if data.dtype.kind not in "fiub":
        data = data.astype(np.float32 if "float" in str(data.dtype) else np.int8)
    data = np.ascontiguousarray(data) if data.flags.writeable else data.copy()
    return torch.from_numpy(data.reshape(tuple(tensor.shape)))


@operator("ConstantOfShape")
def constant_of_shape(op: Op) -> None:
    """One value in a shape; a few in a row are sizes."""
    given = op.attribute("value")
    data = from_file(given) if given is not None else torch.zeros(1)
    kind = str(data.dtype).removeprefix("torch.")
    shape, value = op.numbers(0), data.reshape(-1)[0].item()
    if isinstance(shape, Value) and shape.data.size == 1 and shape.data.reshape(-1)[0] <= _FEW:
        op.call("sizes_fill", shape, value)
    else:
        op.call("fill", shape, value, kind)


@operator("EyeLike")
def eye_like(op: Op) -> None:
    """An identity matrix of a constant's shape."""
    rows, columns = op.shape()
    op.keep(torch.eye(rows, columns))


@operator("Range")
def numbers(op: Op) -> None:
    """Numbers from one to another."""
    kinds = [one.data.dtype for one in op.inputs if one is not None and isinstance(one.data, Tensor)]
    kind = str(kinds[0]).removeprefix("torch.") if kinds else "int64"
    given = [op.numbers(k) for k in range(3)]
    start, end, step = (one[0] if isinstance(one, tuple) else one for one in given)
    op.call("arange", start, end, step, kind)


@operator("ReverseSequence")
def reverse_sequence(op: Op) -> None:
    """The first entries of each sequence backwards."""
    batch, time = op.attribute("batch_axis", 1), op.attribute("time_axis", 0)
    op.call("reverse_sequence", op.value(0), op.numbers(1), batch_axis=batch, time_axis=time)


@operator("Col2Im")
def fold(op: Op) -> None:
    """Patches put back where they were, added where they overlap."""
    pads = op.attribute("pads") or (0, 0, 0, 0)
    if len(pads) != 4 or tuple(pads[:2]) != tuple(pads[2:]):
        raise op.unsupported("only images padded alike on both sides are known")
    dilations, strides = op.attribute("dilations") or (1, 1), op.attribute("strides") or (1, 1)
    op.call(
        "fold", op.value(0), op.numbers(1), op.numbers(2), tuple(dilations), tuple(pads[:2]), tuple(strides)
    )
