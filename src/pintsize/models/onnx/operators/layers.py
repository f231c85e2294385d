"""Layers with weights: convolutions and matrix products."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..building import Op, Value
from ..functions.pooling import flat
from .table import operator


def spatial(op: Op, kernel: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Strides, dilations and pads of a convolution or pool; what is not given is ONNX's default."""
    count = len(kernel)
    return {
        "stride": tuple(op.attribute("strides") or (1,) * count),
        "dilation": tuple(op.attribute("dilations") or (1,) * count),
        "pads": tuple(op.attribute("pads") or (0,) * (2 * count)),
    }


def padded(
    op: Op, x: Value, kernel: tuple[int, ...], given: dict[str, tuple[int, ...]], value: float = 0.0
) -> tuple[Value, tuple[int, ...] | None]:
    """The input, padded where the layer itself cannot do it, and the padding that is left to it.

    Args:
        op: the node.
        x: its input.
        kernel: sizes.
        given: of `spatial`.
        value: what is put around.
    """
    how = op.attribute("auto_pad", "NOTSET")
    if how in ("SAME_UPPER", "SAME_LOWER"):
        lower = how == "SAME_LOWER"
        if all(stride == 1 for stride in given["stride"]):  # then it does not depend on the image's size
            spans = [(k - 1) * d for k, d in zip(kernel, given["dilation"], strict=True)]
            less, more = tuple(s // 2 for s in spans), tuple(s - s // 2 for s in spans)
            given = {**given, "pads": more + less if lower else less + more}
        else:
            steps, spread = given["stride"], given["dilation"]
            return op.between("same_pads", x, kernel, steps, spread, lower, value), (0,) * len(kernel)
    pads = (0,) * (2 * len(kernel)) if how == "VALID" else given["pads"]
    begin, end = pads[: len(kernel)], pads[len(kernel) :]
    if begin == end and all(one >= 0 for one in begin):
        return x, begin
    around = (0, 0, *begin, 0, 0, *end)
    return op.between("pad", x, around, "constant", value), (0,) * len(kernel)


@operator("Conv")
def conv(op: Op) -> None:
    """A convolution; with a weight that the network computes, as a function."""
    weight = op.value(1)
    kernel = tuple(weight.data.shape[2:])
    if not 1 <= len(kernel) <= 3:
        raise op.unsupported(f"a convolution over {len(kernel)} dimensions is not known")
    given = spatial(op, kernel)
    x, padding = padded(op, op.value(0), kernel, given)
    groups = op.attribute("group", 1)
    if weight.kind != "constant" or (op.has(2) and not op.is_constant(2)):
        added = op.value(2) if op.has(2) else None
        op.call("conv", x, weight, added, given["stride"], padding, given["dilation"], groups)
        return
    bias = op.constant(2)
    settings = {
        "in_channels": weight.data.shape[1] * groups,
        "out_channels": weight.data.shape[0],
        "kernel_size": kernel,
        "stride": given["stride"],
        "padding": padding,
        "dilation": given["dilation"],
        "groups": groups,
        "bias": bias is not None,
    }
    weights = {"weight": weight.data, "bias": bias}
    op.module(f"Conv{len(kernel)}d", settings, weights, x, key=_key(op))


@operator("ConvTranspose")
def conv_transpose(op: Op) -> None:
    """A transposed convolution; what it has too much at one side is cut off."""
    weight, bias = op.constant(1), op.constant(2)
    assert weight is not None
    kernel = tuple(weight.shape[2:])
    given, groups, count = spatial(op, kernel), op.attribute("group", 1), len(kernel)
    extra = tuple(op.attribute("output_padding") or (0,) * count)
    begin, end = given["pads"][:count], given["pads"][count:]
    shape, how = op.attribute("output_shape"), op.attribute("auto_pad", "NOTSET")
    if shape is not None or how.startswith("SAME"):
        wanted = tuple(shape)[-count:] if shape is not None else None
        sizes = op.shape()[2:]
        spans = [
            s * (n - 1) + e + (k - 1) * d + 1
            for s, n, e, k, d in zip(given["stride"], sizes, extra, kernel, given["dilation"], strict=True)
        ]
        to = wanted or tuple(n * s for n, s in zip(sizes, given["stride"], strict=True))
        total = [a - b for a, b in zip(spans, to, strict=True)]
        halves = [t // 2 for t in total]
        rest = [t - t // 2 for t in total]
        begin, end = (tuple(halves), tuple(rest)) if how != "SAME_LOWER" else (tuple(rest), tuple(halves))
    settings = {
        "in_channels": weight.shape[0],
        "out_channels": weight.shape[1] * groups,
        "kernel_size": kernel,
        "stride": given["stride"],
        "dilation": given["dilation"],
        "groups": groups,
        "bias": bias is not None,
    }
    weights = {"weight": weight, "bias": bias}
    kind = f"ConvTranspose{count}d"
    if begin == end and all(one >= 0 for one in begin):
        more = {"padding": begin, "output_padding": extra}
        op.module(kind, {**settings, **more}, weights, op.value(0), key=_key(op))
        return
    made = op.module(
        kind, {**settings, "output_padding": extra}, weights, op.value(0), key=_key(op), between=True
    )
    around = [-one for one in flat([*begin, *end])]
    ends = around[1::2][::-1]
    op.call("pad", made, (0, 0, *[-one for one in begin], 0, 0, *ends), "constant", 0.0)


@operator("Gemm")
def gemm(op: Op) -> None:
    """A linear layer, where the second matrix is a weight."""
    alpha, beta = op.attribute("alpha", 1.0), op.attribute("beta", 1.0)
    turn_a, turn_b = bool(op.attribute("transA", 0)), bool(op.attribute("transB", 0))
    bias = op.value(2) if op.has(2) else None
    if not op.is_constant(1) or op.is_constant(0):
        op.call("gemm", op.value(0), op.value(1), bias, alpha, beta, turn_a, turn_b)
        return
    weight = op.value(1).data
    weight = (weight if turn_b else weight.t()) * alpha
    x = op.between("transpose", op.value(0), (1, 0)) if turn_a else op.value(0)
    data = bias.data * beta if bias is not None and bias.kind == "constant" else None
    if bias is None or (data is not None and data.numel() in (1, weight.shape[0]) and _a_row(data)):
        row = None if data is None else data.reshape(-1).expand(weight.shape[0])
        linear(op, x, weight, row)
        return
    made = linear(op, x, weight, None, between=True)
    op.call("add", made, op.between("mul", bias, beta) if beta != 1 else bias)


def _a_row(bias: Tensor) -> bool:
    return bias.numel() == 1 or bias.shape[-1] == bias.numel()


@operator("MatMul")
def matmul(op: Op) -> None:
    """A linear layer, where the second matrix is a weight."""
    weight = op.value(1)
    if weight.kind == "constant" and weight.data.dim() == 2 and not op.is_constant(0):
        linear(op, op.value(0), weight.data.t(), None)
    else:
        op.call("matmul", op.value(0), weight)


def linear(op: Op, x: Value, weight: Tensor, bias: Tensor | None, between: bool = False) -> Value | None:
    """`torch.nn.Linear`."""
    settings = {"in_features": weight.shape[1], "out_features": weight.shape[0], "bias": bias is not None}
    weights = {"weight": weight, "bias": bias}
    return op.module("Linear", settings, weights, x, key=_key(op), between=between)


def _key(op: Op) -> Any:
    """What the layer's weights are called in the file: the same again is the same layer."""
    return op.type, *(value.name if value is not None else None for value in op.inputs[1:])


@operator("Einsum")
def einsum(op: Op) -> None:
    """Einstein's sum."""
    op.call("einsum", *(op.value(k) for k in range(len(op.inputs))), equation=op.attribute("equation"))


@operator("GridSample")
def grid_sample(op: Op) -> None:
    """Values at places."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(
        op.attribute("mode", "bilinear"), op.attribute("mode", "bilinear")
    )
    corners = bool(op.attribute("align_corners", 0))
    op.call("grid_sample", op.value(0), op.value(1), mode, op.attribute("padding_mode", "zeros"), corners)


@operator("Attention")
def attention(op: Op) -> None:
    """Attention of four-dimensional queries, keys and values."""
    if op.rank() != 4 or len([one for one in op.outputs if one]) > 1 or op.has(4) or op.has(5):
        raise op.unsupported("only attention [B, heads, tokens, channels] without a cache is known")
    if op.attribute("softcap", 0.0):
        raise op.unsupported("softcap is not known")
    mask = op.value(3) if op.has(3) else None
    causal, scale = bool(op.attribute("is_causal", 0)), op.attribute("scale")
    op.call("attention", op.value(0), op.value(1), op.value(2), mask, causal, scale)
