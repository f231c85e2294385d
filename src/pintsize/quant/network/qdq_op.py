"""`pintsize::quantize_dequantize`: what a quantizer leaves in an exported graph.

Outside of export the quantizers call PyTorch's fused kernels; in export they call this operator, so
that a writer turns each call into one QuantizeLinear → DequantizeLinear pair. Both compute the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..grid import straight_through


@torch.library.custom_op("pintsize::quantize_dequantize", mutates_args=())
def quantize_dequantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int
) -> Tensor:
    """`(clamp(round(x / scale) + zero_point, qmin, qmax) - zero_point) * scale`, rounding half to even.

    Args:
        x: any floating tensor.
        scale: float32, shape () if `axis` is -1, else [x.shape[axis]].
        zero_point: int32, shaped as `scale`.
        qmin: the smallest integer.
        qmax: the largest integer.
        axis: the channel dimension of `x`, or -1 for one scale per tensor.
    """
    return kernel(x, scale, zero_point, qmin=qmin, qmax=qmax, axis=axis)


@quantize_dequantize.register_fake
def _(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x)


def kernel(x: Tensor, scale: Tensor, zero_point: Tensor, *, qmin: int, qmax: int, axis: int) -> Tensor:
    """The same computation by the fastest means, with its straight-through gradient.

    Float64 without a gradient is computed by the formula itself, since the others multiply by an inverse in
    float32.
    """
    if straight_through.applies(x):
        return straight_through.quantize(x, scale, zero_point, qmin=qmin, qmax=qmax, axis=axis)
    if x.dtype == torch.float64 and not (torch.is_grad_enabled() and x.requires_grad):
        shape = [-1 if dim == axis else 1 for dim in range(x.dim())] if axis >= 0 else []
        step, zero = scale.double().reshape(shape), zero_point.reshape(shape)
        return (torch.round(x / step) + zero).clamp(qmin, qmax).sub(zero).mul(step)
    if axis < 0:
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, qmin, qmax)
    return torch.fake_quantize_per_channel_affine(x, scale, zero_point, axis, qmin, qmax)
