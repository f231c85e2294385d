"""Normalization."""

from __future__ import annotations

from ..building import Op
from .table import operator


@operator("BatchNormalization")
def batch_norm(op: Op) -> None:
    """Batch norm, with the statistics of the file."""
    if op.attribute("training_mode", 0):  # torch writes standardised weights so
        op.call("batch_norm", op.value(0), op.value(1), op.value(2), op.attribute("epsilon", 1e-5))
        return
    weight, bias, mean, var = (op.constant(k) for k in (1, 2, 3, 4))
    assert weight is not None
    rank = op.rank()
    if not 2 <= rank <= 5:
        raise op.unsupported(f"a batch norm of {rank} dimensions is not known")
    settings = {"num_features": weight.numel(), "eps": op.attribute("epsilon", 1e-5)}
    weights = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}
    op.module(f"BatchNorm{max(rank - 2, 1)}d", settings, weights, op.value(0))


@operator("InstanceNormalization")
def instance_norm(op: Op) -> None:
    """Each image's channels by themselves."""
    op.call("instance_norm", op.value(0), op.value(1), op.value(2), op.attribute("epsilon", 1e-5))


@operator("LayerNormalization")
def layer_norm(op: Op) -> None:
    """Over the last dimensions."""
    axis, eps = op.attribute("axis", -1), op.attribute("epsilon", 1e-5)
    shape = op.shape()[axis % op.rank() :]
    plain = op.is_constant(1) and tuple(op.value(1).data.shape) == shape
    if plain and (not op.has(2) or op.is_constant(2)) and not any(op.outputs[1:]):
        weights = {"weight": op.constant(1), "bias": op.constant(2)}
        settings = {"normalized_shape": shape, "eps": eps, "bias": op.has(2)}
        op.module("LayerNorm", settings, weights, op.value(0))
    else:
        op.call("layer_norm", op.value(0), op.value(1), op.value(2) if op.has(2) else None, axis, eps)


@operator("RMSNormalization", "SimplifiedLayerNormalization")
def rms_norm(op: Op) -> None:
    """By the root of the mean square."""
    op.call("rms_norm", op.value(0), op.value(1), op.attribute("axis", -1), op.attribute("epsilon", 1e-5))


@operator("GroupNormalization")
def group_norm(op: Op) -> None:
    """Groups of channels by themselves."""
    groups, eps = op.attribute("num_groups"), op.attribute("epsilon", 1e-5)
    weight, bias = op.constant(1), op.constant(2)
    assert weight is not None
    assert bias is not None
    channels = op.shape()[1]
    if weight.numel() != channels:  # opset 18: one for each group
        weight, bias = (one.repeat_interleave(channels // groups) for one in (weight, bias))
    settings = {"num_groups": groups, "num_channels": channels, "eps": eps}
    op.module("GroupNorm", settings, {"weight": weight, "bias": bias}, op.value(0))


@operator("LRN")
def local_response(op: Op) -> None:
    """Each value over those of the channels beside it."""
    op.call(
        "local_response",
        op.value(0),
        op.attribute("size"),
        op.attribute("alpha", 1e-4),
        op.attribute("beta", 0.75),
        op.attribute("bias", 1.0),
    )


@operator("MeanVarianceNormalization")
def mean_variance(op: Op) -> None:
    """Less the mean, over the deviation."""
    op.call("mean_variance", op.value(0), tuple(op.attribute("axes") or (0, 2, 3)))


@operator("LpNormalization")
def lp_norm(op: Op) -> None:
    """Over the norm along one dimension."""
    how = {1: "l1", 2: "l2"}[op.attribute("p", 2)]
    op.call("div", op.value(0), op.between("reduce", op.value(0), how, (op.attribute("axis", -1),)))
