"""Pools."""

from __future__ import annotations

from ..building import Op
from .layers import padded, spatial
from .table import operator


@operator("MaxPool")
def max_pool(op: Op) -> None:
    """Largest values; torch's own layer where the two sides are padded alike."""
    if any(op.outputs[1:]):
        raise op.unsupported("its second output, the places of the maxima, is not known")
    kernel = tuple(op.attribute("kernel_shape"))
    given, ceil = spatial(op, kernel), bool(op.attribute("ceil_mode", 0))
    x, padding = padded(op, op.value(0), kernel, given, -float("inf"))
    assert padding is not None
    if all(2 * p <= k for p, k in zip(padding, kernel, strict=True)):
        settings = {
            "kernel_size": kernel,
            "stride": given["stride"],
            "padding": padding,
            "dilation": given["dilation"],
            "ceil_mode": ceil,
        }
        op.module(f"MaxPool{len(kernel)}d", settings, {}, x)
    else:
        op.call("max_pool", x, kernel, given["stride"], padding * 2, given["dilation"], ceil)


@operator("AveragePool")
def average_pool(op: Op) -> None:
    """Means; torch's own layer where the two sides are padded alike."""
    kernel = tuple(op.attribute("kernel_shape"))
    given, ceil = spatial(op, kernel), bool(op.attribute("ceil_mode", 0))
    count = bool(op.attribute("count_include_pad", 0))
    pads, how = given["pads"], op.attribute("auto_pad", "NOTSET")
    if any(one != 1 for one in given["dilation"]):
        raise op.unsupported("dilations are not known")
    if how.startswith("SAME"):
        pads = _same(op, kernel, given["stride"], how == "SAME_LOWER")
    begin, end = pads[: len(kernel)], pads[len(kernel) :]
    if begin == end and all(2 * p <= k for p, k in zip(begin, kernel, strict=True)):
        settings = {
            "kernel_size": kernel,
            "stride": given["stride"],
            "padding": begin,
            "ceil_mode": ceil,
            "count_include_pad": count,
        }
        op.module(f"AvgPool{len(kernel)}d", settings, {}, op.value(0))
    else:
        op.call("average_pool", op.value(0), kernel, given["stride"], pads, ceil, count)


def _same(op: Op, kernel: tuple[int, ...], stride: tuple[int, ...], lower: bool) -> tuple[int, ...]:
    """Pads of a file whose images have one size, or whose strides are 1."""
    if not op.builder.static and any(one != 1 for one in stride):
        raise op.unsupported(
            "auto_pad of an average pool with strides depends on the image's size, which is open"
        )
    begin, end = [], []
    for size, k, s in zip(op.shape()[2:], kernel, stride, strict=True):
        missing = max((-(-size // s) - 1) * s + k - size, 0)
        less, more = missing // 2, missing - missing // 2
        begin.append(more if lower else less)
        end.append(less if lower else more)
    return (*begin, *end)


@operator("LpPool")
def lp_pool(op: Op) -> None:
    """The p-norm of a window."""
    kernel = tuple(op.attribute("kernel_shape"))
    given = spatial(op, kernel)
    op.call("lp_pool", op.value(0), kernel, given["stride"], given["pads"], op.attribute("p", 2))


@operator("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(op: Op) -> None:
    """One value for each channel."""
    how = {"GlobalAveragePool": "mean", "GlobalMaxPool": "max"}.get(op.type, "lp")
    op.call("global_pool", op.value(0), how, op.attribute("p", 2))
