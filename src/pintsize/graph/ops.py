"""How each op carries channel labels: a registry of small rules, one per family of ops.

A rule gets the recorded op and the `Labels`, and sets the layers of the op's outputs, joining or
freezing ids where the op demands it. Ops tagged pointwise by PyTorch need no rule of their own;
an op without a rule freezes what it touches, and is named when that matters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from .labels import Labels, align, along, dims_of
from .trace import Op, Value

Rule = Callable[[Op, Labels], None]
_R = TypeVar("_R", bound=Rule)
_RULES: dict[Any, Rule] = {}
aten = torch.ops.aten


def rule(*ops: Any) -> Callable[[_R], _R]:
    """Decorator: the rule for ATen or custom ops, given as overloads or overload packets.

    Example:
        @graph.rule(torch.ops.my_library.swish)
        def swish(op, labels):
            labels.set(op.outputs[0], labels.of(op.inputs[0]))
    """

    def register(function: _R) -> _R:
        for op in ops:
            _RULES[op] = function
        return function

    return register


def apply(op: Op, labels: Labels) -> None:
    """Carry the labels of `op`'s inputs to its outputs."""
    found = _RULES.get(op.func) or _RULES.get(op.func.overloadpacket)
    if found is None and torch.Tag.pointwise in op.func.tags:
        found = pointwise
    if op.inputs and all(value in labels.weights for value in op.inputs):
        labels.weights.update(op.outputs)
    if found is not None:
        found(op, labels)
        return
    touched = [layer for value in op.inputs for layer in labels.of(value)]
    if touched:
        labels.freeze(touched, f"op {op.func} has no rule", op, unsupported=True)


def pointwise(op: Op, labels: Labels) -> None:
    """Element-wise ops with broadcasting: elements that meet are removed together."""
    ndim = len(op.outputs[0].shape)
    merged = merge(op, labels, [v for v in op.inputs if v.shape.numel() > 1], ndim)
    for output in op.outputs:
        labels.set(output, merged)


def merge(op: Op, labels: Labels, values: list[Value], ndim: int) -> list[Tensor]:
    """Join the layers of values that meet element by element; return the layers of the result."""
    shapes = [[1] * (ndim - len(v.shape)) + list(v.shape) for v in values]
    layers = [[align(layer, ndim) for layer in labels.of(v)] for v in values]
    kept: list[Tensor] = []
    for mine in range(len(values)):
        before = list(kept)  # several layers of one value may vary along one dimension, and all stay
        for layer in layers[mine]:
            stays = False
            for other in range(len(values)):
                meets = [d for d in dims_of(layer) if shapes[other][d] > 1]
                if other == mine or not meets:
                    continue
                theirs = [one for one in layers[other] if set(dims_of(one)) & set(meets)]
                if not theirs:
                    labels.freeze([layer], "it meets a tensor whose size is fixed", op)
                    stays = True
                for one in theirs if other > mine else ():  # the others were joined when it was their turn
                    labels.join(layer, one)
            if stays:
                continue
            own = set(dims_of(layer))
            same = [k for k in before if set(dims_of(k)) & own]
            if not same:
                kept.append(layer)
            elif any(set(dims_of(k)) < own for k in same):
                continue  # joined with one that varies along fewer dimensions, it varies no further
            elif layer.numel() > max(k.numel() for k in same) or all(own < set(dims_of(k)) for k in same):
                kept = [k for k in kept if all(k is not s for s in same)] + [layer]
    return kept


@rule(
    aten.clone, aten.detach, aten.alias, aten._to_copy, aten.contiguous, aten.dropout, aten.native_dropout,
    aten.hardswish, aten.hardswish_, aten.rrelu_with_noise, aten.rrelu_with_noise_, aten.log_sigmoid_forward,
    aten.mish_, aten.threshold_, aten.hardsigmoid_, aten.hardtanh_, aten.leaky_relu_, aten.elu_, aten.celu_,
    aten.lift_fresh, aten.lift_fresh_copy, aten.fill, aten.fill_, aten.zero_, aten.bernoulli_, aten.nan_to_num,
    aten.zeros_like, aten.ones_like, aten.empty_like, aten.rand_like, aten.randn_like, aten.full_like,
    aten.new_zeros, aten.new_ones, aten.new_empty, aten.new_full, aten.isnan, aten.logical_not,
)  # fmt: skip
def same(op: Op, labels: Labels) -> None:
    """Ops whose result has the shape and the channels of their input."""
    for output in op.outputs:
        if output.shape == op.inputs[0].shape:
            labels.set(output, labels.of(op.inputs[0]))


@rule(aten.copy_)
def copy(op: Op, labels: Labels) -> None:
    """`target.copy_(source)`: the target's elements are the source's from now on."""
    target, source = op.inputs[:2]
    labels.set(target, merge(op, labels, [target, source], len(target.shape)))


@rule(aten.convolution)
def convolution(op: Op, labels: Labels) -> None:
    """Convolution of any dimension, transposed, grouped or depthwise."""
    x, weight, bias = op.args[:3]
    transposed, groups = op.args[6], op.args[8]
    channels = mixed(op, labels, x, 1, keep=[0])
    first, second = weight_axis(labels, weight, 0), weight_axis(labels, weight, 1)
    if weight.name is None:  # computed: what made it may take its window for channels
        window = [layer for layer in labels.of(weight) if any(d > 1 for d in dims_of(layer))]
        labels.freeze(window, "it is a position in the window of a convolution", op)
    depthwise = groups > 1 and groups == x.shape[1]
    if groups > 1 and first is not None:
        # depthwise: a channel goes with its own filters; else the same filters of every group: groups stay equal
        labels.join_over(first.reshape(groups, -1), [1 if depthwise else 0])
    if depthwise:
        if second is not None:  # transposed, with several outputs per channel
            labels.freeze([second], "filters of a depthwise transposed convolution go by channel", op)
        takes = None if first is None else first.reshape(groups, -1)[:, 0]
        gives = None if takes is None else takes.repeat_interleave(op.outputs[0].shape[1] // groups)
    elif transposed:  # weight is [I, O/g, …]
        takes, gives = first, None if second is None else second.repeat(groups)
    else:
        takes, gives = None if second is None else second.repeat(groups), first
    if takes is not None and channels is not None:
        labels.join(takes, channels)
    elif takes is not None or channels is not None:
        labels.freeze(
            [t for t in (takes, channels) if t is not None], "it meets a tensor whose size is fixed", op
        )
    layers = [layer for layer in labels.of(x) if dims_of(layer) == [0]]
    if gives is not None:
        labels.sources.append(gives)
        for layer in labels.of(bias) if bias is not None else []:
            labels.join(layer, gives)
        layers.append(along(gives, 1, len(x.shape)))
    labels.set(op.outputs[0], layers)


def weight_axis(labels: Labels, weight: Value, dim: int) -> Tensor | None:
    """The ids along one dimension of a weight, joined over the others; None if it has size 1 or no ids."""
    if weight.shape[dim] == 1:
        return None
    for layer in labels.of(weight):
        if layer.shape[dim] > 1:
            rest = [d for d in dims_of(layer) if d != dim]
            return labels.join_over(layer, rest).reshape(-1)
    return None


def mixed(op: Op, labels: Labels, x: Value, dim: int, keep: list[int]) -> Tensor | None:
    """The ids of `x` along `dim`, which the op sums over; what varies elsewhere (but `keep`) is frozen."""
    found: Tensor | None = None
    for layer in labels.of(x):
        varying = dims_of(layer)
        if dim in varying:
            channels = labels.join_over(layer, [d for d in varying if d != dim]).reshape(-1)
            if found is not None:
                labels.join(found, channels)
            found = channels
        elif not set(varying) <= set(keep):
            labels.freeze([layer], f"{op.func} mixes these positions", op)
    return found


@rule(aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.mv, aten.dot)
def matmul(op: Op, labels: Labels) -> None:
    """Matrix products; two activations keep whole what they contract (whole heads of attention)."""
    biased = op.func.overloadpacket in (aten.addmm, aten.baddbmm)
    left, right = (op.args[1], op.args[2]) if biased else (op.args[0], op.args[1])
    output = op.outputs[0]
    if len(right.shape) != len(left.shape) or len(left.shape) < 2:  # mv, dot
        labels.freeze([*labels.of(left), *labels.of(right)], f"{op.func} mixes these positions", op)
        return
    both = left not in labels.weights and right not in labels.weights
    rows, inner_left = _contracted(labels, left, -1, whole=both)
    columns, inner_right = _contracted(labels, right, -2, whole=both)
    if left.shape[-1] > 1 and bool(inner_left) != bool(inner_right):
        labels.freeze(inner_left + inner_right, "it is summed with a tensor whose size is fixed", op)
    for mine in inner_left:
        for other in inner_right:
            labels.join(mine, other)
    if len(left.shape) == 3:
        _join_batch(op, labels, rows, columns, left.shape[0])
    if left in labels.weights and right not in labels.weights:
        labels.sources.extend(one.reshape(-1) for one in rows)
    if right in labels.weights and left not in labels.weights:
        labels.sources.extend(one.reshape(-1) for one in columns)
    kept = list(rows)
    for one in columns:  # a batch layer that both bring is kept once, at its larger size
        meets = [r for r in rows if set(dims_of(r)) & set(dims_of(one))]
        if not meets or one.numel() > max(r.numel() for r in meets):
            kept = [r for r in kept if all(r is not m for m in meets)] + [one]
    labels.set(output, kept)
    if biased and isinstance(op.args[0], Value):
        labels.set(output, merge(op, labels, [output, op.args[0]], len(output.shape)))


def _contracted(labels: Labels, value: Value, dim: int, *, whole: bool) -> tuple[list[Tensor], list[Tensor]]:
    """The layers of a factor that the product keeps, and the ids (one-dimensional) that it sums over."""
    kept, inner = [], []
    for layer in labels.of(value):
        if layer.shape[dim] == 1:
            kept.append(layer)
            continue
        position = dim % layer.dim()
        if whole:  # a head keeps all its dimensions, since its scale depends on their number
            rest = labels.join_over(layer, [position])
            kept.extend([rest] if dims_of(rest) else [])
            for d in dims_of(layer):
                layer = layer if d == position else layer.narrow(d, 0, 1)  # noqa: PLW2901
        inner.append(labels.join_over(layer, [d for d in dims_of(layer) if d != position]).reshape(-1))
    return kept, inner


def _join_batch(op: Op, labels: Labels, rows: list[Tensor], columns: list[Tensor], batch: int) -> None:
    """In a batch of products, an entry of one factor goes with the same entry of the other."""
    mine = [one for one in rows if one.shape[0] > 1]
    others = [one for one in columns if one.shape[0] > 1]
    if batch > 1 and bool(mine) != bool(others):
        labels.freeze(mine + others, "it is multiplied with a tensor whose size is fixed", op)
    for one in mine:
        for other in others:
            labels.join(one.reshape(batch, -1, 1), other.reshape(batch, 1, -1))


@rule(
    aten._scaled_dot_product_flash_attention_for_cpu, aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention, aten._scaled_dot_product_cudnn_attention,
    aten.scaled_dot_product_attention,
)  # fmt: skip
def attention(op: Op, labels: Labels) -> None:
    """Scaled dot-product attention: whole heads, since the default scale depends on the head size."""
    query, key, value = op.args[:3]
    heads = []
    for tensor in (query, key, value):
        for layer in labels.of(tensor):
            if layer.shape[-2] > 1:
                labels.freeze([layer], "attention mixes these positions", op)
                continue
            heads.append(labels.join_over(layer, [len(layer.shape) - 1, len(layer.shape) - 2]))
    for tensor in (query, key, value):
        if not labels.of(tensor) and heads:
            labels.freeze(heads, "it attends to a tensor whose size is fixed", op)
    for one in heads[1:]:
        labels.join(heads[0], one)
    labels.set(op.outputs[0], labels.of(value))


@rule(
    aten.native_batch_norm, aten._native_batch_norm_legit, aten._native_batch_norm_legit_no_training,
    aten.cudnn_batch_norm, aten.miopen_batch_norm, aten.batch_norm,
)  # fmt: skip
def batch_norm(op: Op, labels: Labels) -> None:
    """Batch norm, and instance norm, which runs it on `[1, B·C, …]`: all vectors follow dimension 1."""
    x = op.args[0]
    vectors = [v for v in op.args[1:5] if isinstance(v, Value)]
    for vector in vectors:
        own = [
            align(layer.reshape(-1, *[1] * (len(x.shape) - 2)), len(x.shape)) for layer in labels.of(vector)
        ]
        mine = [layer for layer in labels.of(x) if layer.shape[1] > 1]
        if bool(own) != bool(mine):
            labels.freeze(own + mine, "norm and input are not both labelled", op)
        for a in own:
            for b in mine:
                labels.join(a, b)
    if any(argument is True for argument in op.args):  # statistics of this very input: a standardised weight
        for layer in labels.of(x):
            if any(d != 1 for d in dims_of(layer)):
                labels.across[op] = layer
    labels.set(op.outputs[0], labels.of(x))


@rule(aten.native_layer_norm, aten._fused_rms_norm)
def layer_norm(op: Op, labels: Labels) -> None:
    """Layer norm over the last dimensions; its statistics are taken over the kept channels."""
    x, shape = op.args[0], op.args[1]
    start = len(x.shape) - len(shape)
    weights = [v for v in op.args[2:4] if isinstance(v, Value)]
    labels.set(op.outputs[0], merge(op, labels, [x, *weights], len(x.shape)))
    for layer in labels.of(x):
        if any(d >= start for d in dims_of(layer)):
            labels.across[op] = layer


@rule(aten.native_group_norm)
def group_norm(op: Op, labels: Labels) -> None:
    """Group norm: the same channels of every group go together, so that groups stay equal."""
    x, groups = op.args[0], op.args[6]
    for vector in (v for v in op.args[1:3] if isinstance(v, Value)):
        own = [along(layer.reshape(-1), 1, len(x.shape)) for layer in labels.of(vector)]
        mine = [layer for layer in labels.of(x) if layer.shape[1] > 1]
        if own and not mine:
            labels.freeze(own, "it reads a tensor whose size is fixed", op)
        for a in own:
            for b in mine:
                labels.join(a, b)
    for layer in labels.of(x):
        if layer.shape[1] > 1:
            if groups > 1:
                labels.join_over(layer.unflatten(1, (groups, -1)), [1])
            labels.across[op] = layer
    labels.set(op.outputs[0], labels.of(x))


@rule(aten.prelu, aten._prelu_kernel)
def prelu(op: Op, labels: Labels) -> None:
    """PReLU: one slope for all, or one per channel (dimension 1)."""
    x, slope = op.args[:2]
    for layer in labels.of(slope):
        own = (
            along(layer.reshape(-1), 1, len(x.shape)) if len(slope.shape) == 1 else align(layer, len(x.shape))
        )
        mine = [one for one in labels.of(x) if set(dims_of(one)) & set(dims_of(own))]
        if not mine:
            labels.freeze([own], "it reads a tensor whose size is fixed", op)
        for one in mine:
            labels.join(own, one)
    labels.set(op.outputs[0], labels.of(x))


@rule(aten._weight_norm_interface, aten._weight_norm)
def weight_norm(op: Op, labels: Labels) -> None:
    """A weight as direction and length; the length runs over all but one dimension, whose channels may go."""
    direction, length = op.args[:2]
    dim = (op.args[2] if len(op.args) > 2 else 0) % len(direction.shape)
    if direction.name is not None:
        labels.directions.add(direction.name)
    for layer in labels.of(direction):
        if dims_of(layer) == [dim]:
            for other in labels.of(length):
                labels.join(layer, other)
        else:
            labels.freeze([layer], "the length of a filter is taken over it", op)
    labels.set(op.outputs[0], labels.of(direction))
    for lengths in op.outputs[1:]:
        labels.set(lengths, labels.of(length))


@rule(aten.embedding)
def embedding(op: Op, labels: Labels) -> None:
    """Table look-up: the columns of the table are the channels of the result."""
    table = op.args[0]
    columns = weight_axis(labels, table, 1)
    labels.freeze([one for one in labels.of(table) if one.shape[0] > 1], "rows are addressed by index", op)
    if columns is not None:
        labels.sources.append(columns)
        ndim = len(op.outputs[0].shape)
        labels.set(op.outputs[0], [along(columns, ndim - 1, ndim)])
