"""Rules of the ops that move, cut, join or reduce dimensions.

Most of them are *run* on the ids themselves, so that the labels are right by construction.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from .labels import FIXED, Labels, align, along, dims_of, reshape, widen
from .ops import aten, rule
from .trace import Op, Value


def _run(op: Op, labels: Labels, layers: Iterable[Tensor], dims: Iterable[int]) -> None:
    """Run the op on ids of its first input, at full size along `dims`, the dimensions it acts on."""
    x = op.inputs[0]
    for layer in layers:
        ids = widen(layer, dims, x.shape)
        known = {x: ids}
        args, kwargs = tree_map_only(Value, known.__getitem__, (op.args, op.kwargs))
        results = tree_flatten(op.func(*args, **kwargs))[0]
        for output, result in zip(op.outputs, results, strict=True):
            labels.layers.setdefault(output, [])
            labels.set(output, [*labels.of(output), result])


def _fresh_outputs(op: Op, labels: Labels) -> None:
    for output in op.outputs:
        labels.layers[output] = []


def dimension(value: Value, dim: int) -> int:
    """`dim` counted from the front."""
    return dim % len(value.shape)


def argument(op: Op, position: int, name: str, default: Any) -> Any:
    """An argument given by position or by name."""
    if name in op.kwargs:
        return op.kwargs[name]
    return op.args[position] if len(op.args) > position else default


@rule(aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias)
def view(op: Op, labels: Labels) -> None:
    """Views that keep the order of elements."""
    x, output = op.inputs[0], op.outputs[0]
    layers = [reshape(layer, x.shape, output.shape) for layer in labels.of(x)]
    if (
        layers
        and op.call is not None
        and not op.call.function.endswith((".flatten", ".linear", ".instance_norm"))
    ):
        labels.splits.append(op)
    labels.set(output, layers)


@rule(
    aten.permute, aten.transpose, aten.t, aten.squeeze, aten.unsqueeze, aten.movedim, aten.numpy_T,
    aten.unsqueeze_, aten.squeeze_, aten.transpose_,
)  # fmt: skip
def rearrange(op: Op, labels: Labels) -> None:
    """Ops that only reorder dimensions, or add and drop those of size 1."""
    x, output = op.inputs[0], op.outputs[0]
    before = labels.of(x)
    packet = op.func.overloadpacket
    if packet in (aten.squeeze, aten.squeeze_):
        gone = argument(op, 1, "dim", None)
        dims = range(len(x.shape)) if gone is None else ([gone] if isinstance(gone, int) else gone)
        drop = {dimension(x, d) for d in dims if x.shape[dimension(x, d)] == 1}
        labels.set(
            output, [one.reshape([s for d, s in enumerate(one.shape) if d not in drop]) for one in before]
        )
        return
    _fresh_outputs(op, labels)
    labels.set(output, [op.func(layer, *op.args[1:], **op.kwargs) for layer in before])


@rule(aten.expand, aten.broadcast_to)
def expand(op: Op, labels: Labels) -> None:
    """Repeating a dimension of size 1."""
    ndim = len(op.outputs[0].shape)
    layers = [align(layer, ndim) for layer in labels.of(op.inputs[0])]
    if op.call is not None and op.call.function == "torch.nn.functional.normalize":
        # it repeats the length for the vector that it divides, however long that is
        vector = next(other for other in labels.trace.all_ops if other.call == op.call).inputs[0]
        layers += [layer for layer in labels.of(vector) if all(layer is not one for one in layers)]
    labels.set(op.outputs[0], layers)
    if labels.of(op.inputs[0]):
        labels.splits.append(op)


_SPLITS = (aten.split, aten.split_with_sizes, aten.unsafe_split, aten.unsafe_split_with_sizes)


@rule(aten.slice, aten.select, aten.unbind, aten.narrow, *_SPLITS)
def cut(op: Op, labels: Labels) -> None:
    """Pieces along one dimension; equal pieces of labelled channels shrink alike, uneven ones stay."""
    x = op.inputs[0]
    position = 2 if op.func.overloadpacket in _SPLITS else 1
    dim = dimension(x, argument(op, position, "dim", 0))
    _fresh_outputs(op, labels)
    packet = op.func.overloadpacket
    labelled = [layer for layer in labels.of(x) if layer.shape[dim] > 1]
    if labelled and op.outputs[0].shape != x.shape:
        labels.splits.append(op)
        inside = [layer for layer in labelled if len(dims_of(layer)) > 1]  # e.g. q, k, v of several heads
        for layer in inside:
            labels.join_over(layer, [dim])
        whole = [layer for layer in labelled if len(dims_of(layer)) == 1]
        if packet in _SPLITS:
            _pieces(op, labels, whole, dim)
        elif packet in (aten.select, aten.unbind):
            labels.freeze(whole, "one of its positions is picked by number", op)
        else:
            _slice(op, labels, whole, dim)
    for output in op.outputs:  # what does not vary along `dim` is the same in every piece
        same = [layer for layer in labels.of(x) if layer.shape[dim] == 1]
        gone = packet in (aten.select, aten.unbind)
        labels.set(output, [layer.squeeze(dim) if gone else layer for layer in same])
    _run(op, labels, labelled, [dim])


def _pieces(op: Op, labels: Labels, labelled: list[Tensor], dim: int) -> None:
    """Equal pieces shrink alike; the sizes of unequal ones are written in the code."""
    if len({output.shape[dim] for output in op.outputs}) > 1:
        labels.freeze(labelled, "it is split into pieces of fixed, unequal sizes", op)
    elif len(op.outputs) > 1:
        for layer in labelled:
            labels.join_over(layer.unflatten(dim, (len(op.outputs), -1)), [dim])


def _slice(op: Op, labels: Labels, labelled: list[Tensor], dim: int) -> None:
    """A slice of 1/n of the channels shrinks like its siblings; any other keeps its channels."""
    size, part = op.inputs[0].shape[dim], op.outputs[0].shape[dim]
    start, step = argument(op, 2, "start", 0) or 0, argument(op, 4, "step", 1)
    if step == 1 and size % part == 0 and start % part == 0:
        for layer in labelled:
            labels.join_over(layer.unflatten(dim, (size // part, part)), [dim])
    else:
        labels.freeze(labelled, "a slice with fixed ends is taken of it", op)


@rule(aten.cat, aten.stack)
def cat(op: Op, labels: Labels) -> None:
    """Concatenation: the channels of the operands side by side; a piece without labels stays."""
    values = [v for v in op.args[0] if v.shape.numel() > 0]
    output = op.outputs[0]
    dim = argument(op, 1, "dim", 0) % len(output.shape)
    stacked = op.func.overloadpacket is aten.stack
    pieces, kept = [], []
    for value in values:
        own = [layer.unsqueeze(dim) for layer in labels.of(value)] if stacked else labels.of(value)
        shape = (*value.shape[:dim], 1, *value.shape[dim:]) if stacked else value.shape
        pieces.append((own, shape))
    along_dim = any(layer.shape[dim] > 1 for own, _ in pieces for layer in own)
    elsewhere = {d for own, _ in pieces for layer in own for d in dims_of(layer) if d != dim}
    if along_dim:
        kept.append(_side_by_side(labels, pieces, dim, len(output.shape)))
    else:
        for d in sorted(elsewhere):
            layers = [[layer for layer in own if layer.shape[d] > 1] for own, _ in pieces]
            if all(layers):
                first = layers[0][0]
                for other in layers[1:]:
                    labels.join(first, other[0])
                kept.append(first)
            else:
                labels.freeze(
                    [one for own in layers for one in own], "it is joined to a tensor of fixed size", op
                )
    labels.set(output, kept)


def _side_by_side(labels: Labels, pieces: list[tuple[list[Tensor], Any]], dim: int, ndim: int) -> Tensor:
    parts, other = [], [1] * ndim
    for own, _ in pieces:
        for layer in own:
            other = [max(a, b) for a, b in zip(other, layer.shape, strict=True)]
    for own, shape in pieces:
        size = shape[dim]
        layer = own[0] if own else torch.full([1] * ndim, FIXED)
        for extra in own[1:]:
            labels.join(layer, extra)
        parts.append(layer.expand([size if d == dim else other[d] for d in range(ndim)]))
    return torch.cat(parts, dim)


@rule(aten.flip, aten.roll, aten.repeat, aten.tile, aten.repeat_interleave, aten.tril, aten.triu)
def reorder(op: Op, labels: Labels) -> None:
    """Ops that move or repeat elements along dimensions: run on the ids wherever these vary."""
    x, output = op.inputs[0], op.outputs[0]
    _fresh_outputs(op, labels)
    if op.func.overloadpacket in (aten.repeat, aten.tile):
        layers = []
        for layer in labels.of(x):
            wide = align(layer, len(output.shape))
            times = [r if wide.shape[d] > 1 else 1 for d, r in enumerate(_repeats(op, len(output.shape)))]
            layers.append(wide.repeat(times))
        labels.set(output, layers)
    else:
        _run(op, labels, labels.of(x), range(len(x.shape)))


def _repeats(op: Op, ndim: int) -> list[int]:
    times = list(argument(op, 1, "repeats", None) or argument(op, 1, "dims", []))
    return [1] * (ndim - len(times)) + times


@rule(aten.index)
def index(op: Op, labels: Labels) -> None:
    """Advanced indexing with tensors; channels addressed by number stay."""
    x, indices = op.args[0], op.args[1]
    used = [d for d, i in enumerate(indices) if i is not None]
    _fresh_outputs(op, labels)
    if any(i is not None and labels.of(i) for i in indices):
        labels.freeze(
            [one for i in indices if i is not None for one in labels.of(i)], "it is used as an index", op
        )
    plain = [
        None if i is None else torch.zeros(i.shape, dtype=torch.long) if i.dtype != torch.bool else None
        for i in indices
    ]
    if any(i is not None and i.dtype == torch.bool for i in indices):
        labels.freeze(labels.of(x), "it is selected by a mask", op)
        return
    layers = []
    for layer in labels.of(x):
        if any(layer.shape[d] > 1 for d in used):
            labels.freeze([layer], "its positions are picked by number", op)
            continue
        layers.append(aten.index(layer, plain))
    labels.set(op.outputs[0], layers)


@rule(aten.as_strided, aten.as_strided_)
def as_strided(op: Op, labels: Labels) -> None:
    """Another memory layout of the same elements; anything else addresses elements by number."""
    x, output = op.inputs[0], op.outputs[0]
    if tuple(op.args[1]) == tuple(x.shape):
        labels.set(output, labels.of(x))
    else:
        labels.freeze(labels.of(x), "its positions are picked by number", op)


@rule(aten.index_select)
def index_select(op: Op, labels: Labels) -> None:
    """Rows picked by number along one dimension; channels there stay."""
    x = op.args[0]
    dim = dimension(x, op.args[1])
    labels.freeze(
        [one for one in labels.of(x) if one.shape[dim] > 1], "its positions are picked by number", op
    )
    labels.set(op.outputs[0], [one for one in labels.of(x) if one.shape[dim] == 1])


@rule(aten.glu)
def glu(op: Op, labels: Labels) -> None:
    """Gated linear unit: the first half times the sigmoid of the second, so pairs go together."""
    x = op.args[0]
    dim = dimension(x, argument(op, 1, "dim", -1))
    layers = []
    for layer in labels.of(x):
        if layer.shape[dim] > 1:
            labels.join_over(layer.unflatten(dim, (2, -1)), [dim])
            layer = layer.narrow(dim, 0, layer.shape[dim] // 2)  # noqa: PLW2901
        layers.append(layer)
    labels.set(op.outputs[0], layers)


@rule(aten.gather, aten.scatter, aten.scatter_add, aten.index_add, aten.index_put, aten.index_put_,
      aten.index_copy, aten.masked_select, aten.nonzero, aten.one_hot, aten.unfold, aten.im2col,
      aten.col2im)  # fmt: skip
def addressed(op: Op, labels: Labels) -> None:
    """Ops that address elements by number: what is labelled in them stays."""
    labels.freeze([one for v in op.inputs for one in labels.of(v)], "its positions are picked by number", op)


@rule(aten.constant_pad_nd, aten.reflection_pad1d, aten.reflection_pad2d, aten.replication_pad1d,
      aten.replication_pad2d, aten.reflection_pad3d, aten.replication_pad3d, aten.pad)  # fmt: skip
def pad(op: Op, labels: Labels) -> None:
    """Padding; channels that are padded in stay, unless their number is the module's attribute `padding`."""
    x, output = op.inputs[0], op.outputs[0]
    amounts = list(op.args[1])
    layers = []
    for layer in labels.of(x):
        for k in range(len(amounts) // 2):
            dim = len(x.shape) - 1 - k
            if layer.shape[dim] > 1 and any(amounts[2 * k : 2 * k + 2]):
                layer = _pad_dim(op, labels, layer, dim, amounts, 2 * k)  # noqa: PLW2901
        layers.append(layer)
    labels.set(output, layers)


def _pad_dim(op: Op, labels: Labels, layer: Tensor, dim: int, amounts: list[int], position: int) -> Tensor:
    """The layer with ids for what is padded before and after along `dim`."""
    before, after = amounts[position : position + 2]
    if before < 0 or after < 0:
        labels.freeze([layer], "a fixed number of its channels is cut off", op)
    own = op.func.overloadpacket is aten.constant_pad_nd and labels.trace.paddings.get(op.module) == tuple(
        amounts
    )
    pieces = [layer.narrow(dim, max(-before, 0), layer.shape[dim] - max(-before, 0) - max(-after, 0))]
    for side, amount in enumerate((before, after)):
        if amount <= 0:
            continue
        key = (op.module, position + side)
        if own and len(dims_of(layer)) == 1:
            if key not in labels.padded:
                labels.padded[key] = labels.fresh(amount)
            piece = along(labels.padded[key], dim, layer.dim())
        else:
            piece = torch.full([amount if d == dim else size for d, size in enumerate(layer.shape)], FIXED)
        pieces.insert(0 if side == 0 else len(pieces), piece)
    return torch.cat(pieces, dim)


@rule(aten.pixel_shuffle, aten.pixel_unshuffle, aten.native_channel_shuffle, aten.channel_shuffle)
def shuffle(op: Op, labels: Labels) -> None:
    """Channels moved into space or among each other."""
    x = op.inputs[0]
    _fresh_outputs(op, labels)
    if op.func.overloadpacket in (aten.native_channel_shuffle, aten.channel_shuffle):
        groups = op.args[1]
        for layer in labels.of(x):
            if layer.shape[1] > 1:
                labels.join_over(layer.unflatten(1, (groups, -1)), [1])
        _run(op, labels, labels.of(x), [1])
        return
    n = len(x.shape)
    for layer in labels.of(x):
        factor = op.args[1]
        shape = (*x.shape[:-2], *(factor if op.func.overloadpacket is aten.pixel_unshuffle else 1,) * 2)
        small = layer.narrow(n - 2, 0, 1).narrow(n - 1, 0, 1)
        if small.numel() != layer.numel():
            labels.freeze([layer], "its positions are moved into channels", op)
        ids = op.func(small.expand(shape).contiguous(), factor)
        out = op.outputs[0].shape
        repeat = [out[d] // ids.shape[d] if d >= n - 2 and ids.shape[d] > 1 else 1 for d in range(n)]
        labels.set(op.outputs[0], [*labels.of(op.outputs[0]), ids.repeat(repeat)])
