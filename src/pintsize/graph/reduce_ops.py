"""Rules of the ops that reduce or mix along dimensions: means, softmax, pooling, interpolation."""

from __future__ import annotations

from .labels import Labels, dims_of
from .ops import aten, merge, rule
from .shape_ops import argument, dimension
from .trace import Op


def _reduced(op: Op) -> list[int]:
    """The dimensions a reduction runs over."""
    x = op.inputs[0]
    dim = argument(op, 1, "dim", None)
    if dim is None or isinstance(dim, bool | float) or dim == []:
        return list(range(len(x.shape)))
    return [dimension(x, d) for d in ([dim] if isinstance(dim, int) else dim)]


@rule(aten.mean, aten.sum, aten.amax, aten.amin, aten.max, aten.min, aten.prod, aten.var, aten.std, aten.var_mean,
      aten.std_mean, aten.logsumexp, aten.argmax, aten.argmin, aten.any, aten.all, aten.median,
      aten.linalg_vector_norm, aten.norm)  # fmt: skip
def reduce(op: Op, labels: Labels) -> None:
    """Reductions; channels that are averaged over stay."""
    x, output = op.inputs[0], op.outputs[0]
    if op.func.overloadpacket in (aten.linalg_vector_norm, aten.norm):
        dim = argument(op, 2, "dim", None)
        dims = (
            list(range(len(x.shape)))
            if dim is None
            else [dimension(x, d) for d in ([dim] if isinstance(dim, int) else dim)]
        )
    else:
        dims = _reduced(op)
    layers = []
    norm = (
        bool(labels.of(x))
        and x not in labels.weights
        and ((op.call is not None and op.call.function.endswith(".rms_norm")) or _of_a_norm(op, labels))
    )
    for layer in labels.of(x):
        if norm and any(layer.shape[d] > 1 for d in dims):
            labels.across[op] = layer  # a norm that is written out: over the kept channels
        elif any(layer.shape[d] > 1 for d in dims):
            labels.freeze([layer], f"{op.func} runs over it", op)
        elif len(output.shape) == len(x.shape):
            layers.append(layer)
        else:
            layers.append(layer.reshape([s for d, s in enumerate(layer.shape) if d not in dims]))
    for out in op.outputs:
        labels.set(out, layers)


STATISTICS = (aten.mean, aten.var, aten.std, aten.var_mean, aten.std_mean, aten.linalg_vector_norm)
_PASS = (aten.sqrt, aten.sqrt_, aten.clamp, aten.clamp_, aten.clamp_min, aten.clamp_min_, aten.expand, aten.detach,
         aten.clone, aten._to_copy, aten.unsqueeze, aten.alias, aten.contiguous)  # fmt: skip
_PLUS = (aten.add, aten.add_, aten.mul, aten.mul_, aten.maximum)
_INVERT = (aten.rsqrt, aten.rsqrt_, aten.reciprocal, aten.reciprocal_)


def _of_a_norm(op: Op, labels: Labels) -> bool:
    """Whether it is a statistic of a norm that is written out: whatever becomes of it is subtracted or divided by."""
    if op.func.overloadpacket not in STATISTICS:
        return False
    todo, used, ends = [(value, False) for value in op.outputs], False, labels.trace.all_outputs
    while todo:
        value, inverse = todo.pop()
        if value in ends:
            return False
        for reader in labels.readers.get(value, ()):
            packet, others = reader.func.overloadpacket, len(reader.inputs) - 1
            second = len(reader.args) > 1 and reader.args[1] is value and reader.args[0] is not value
            if (second and packet in (aten.sub, aten.sub_, aten.div, aten.div_)) or (
                inverse and others and packet in (aten.mul, aten.mul_)
            ):
                used = True
            elif packet in _PASS or (packet in _PLUS and not others):
                todo.append((reader.outputs[0], inverse))
            elif packet in _INVERT:
                todo.append((reader.outputs[0], not inverse))
            elif packet is aten.pow and isinstance(reader.args[1], int | float):
                todo.append((reader.outputs[0], inverse != (reader.args[1] < 0)))
            else:
                return False
    return used


@rule(
    aten._softmax,
    aten._log_softmax,
    aten.softmax,
    aten.cumsum,
    aten.cumprod,
    aten.sort,
    aten.topk,
    aten._safe_softmax,
)
def along_dim(op: Op, labels: Labels) -> None:
    """Ops that mix the elements of one dimension and keep its size."""
    position = {aten.sort: 1, aten.topk: 2}.get(op.func.overloadpacket, 1)
    x = op.inputs[0]
    dim = dimension(x, argument(op, position, "dim", -1))
    labels.freeze([one for one in labels.of(x) if one.shape[dim] > 1], f"{op.func} runs over it", op)
    for output in op.outputs:
        labels.set(output, [one for one in labels.of(x) if one.shape[dim] == 1])


@rule(aten.max_pool2d_with_indices, aten.max_pool3d_with_indices, aten.max_pool1d, aten.max_pool2d, aten.avg_pool1d,
      aten.avg_pool2d, aten.avg_pool3d, aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d, aten.adaptive_avg_pool1d,
      aten.adaptive_avg_pool2d, aten.adaptive_max_pool2d, aten.adaptive_max_pool3d, aten.upsample_nearest1d,
      aten.upsample_nearest2d, aten.upsample_nearest3d, aten._upsample_nearest_exact2d, aten.upsample_bilinear2d,
      aten.upsample_bicubic2d, aten.upsample_linear1d, aten.upsample_trilinear3d, aten._upsample_bilinear2d_aa,
      aten._upsample_bicubic2d_aa, aten.mkldnn_max_pool2d, aten.quantized_max_pool2d)  # fmt: skip
def spatial(op: Op, labels: Labels) -> None:
    """Pooling and interpolation: channels pass, positions are mixed."""
    x = op.inputs[0]
    space = {1: "1d", 2: "2d", 3: "3d"}
    dims = next(n for n, name in space.items() if name in str(op.func))
    start = len(x.shape) - dims
    labels.freeze(
        [one for one in labels.of(x) if any(d >= start for d in dims_of(one))], f"{op.func} runs over it", op
    )
    kept = [one for one in labels.of(x) if all(d < start for d in dims_of(one))]
    for output in op.outputs:
        labels.set(output, kept)


@rule(aten.grid_sampler_2d, aten.grid_sampler_3d)
def grid_sample(op: Op, labels: Labels) -> None:
    """Sampling at given places: channels pass, the places (and what computes them) stay."""
    x, grid = op.args[:2]
    labels.freeze(labels.of(grid), "it says where to sample", op)
    labels.freeze(
        [one for one in labels.of(x) if any(d > 1 for d in dims_of(one))], f"{op.func} runs over it", op
    )
    labels.set(op.outputs[0], [one for one in labels.of(x) if all(d <= 1 for d in dims_of(one))])


@rule(aten.max_unpool2d, aten.max_unpool3d)
def unpool(op: Op, labels: Labels) -> None:
    """Maxima put back where they were found: a channel goes with its places."""
    x, places = op.args[:2]
    start = len(x.shape) - (2 if op.func.overloadpacket is aten.max_unpool2d else 3)
    spatial = [one for v in (x, places) for one in labels.of(v) if any(d >= start for d in dims_of(one))]
    labels.freeze(spatial, f"{op.func} runs over it", op)
    merged = merge(op, labels, [x, places], len(x.shape))
    labels.set(op.outputs[0], [one for one in merged if all(d < start for d in dims_of(one))])
