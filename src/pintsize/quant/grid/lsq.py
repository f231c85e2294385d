"""Learned step size: the gradient of a quantizer's output for its scale (Esser et al., 1902.08153).

With `q = clamp(round(x/s) + z)` and `y = (q − z)·s` the straight-through gradient is
`∂y/∂s = q − z − x/s` inside the range and `q − z` outside of it, that is `(y − m·x)/s` with `m` the mask
of what is inside. It is scaled by `1/√(n·qmax)`, `n` the number of elements that share the scale.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import straight_through


def learned(x: Tensor, scale: Tensor, zero_point: Tensor, *, qmin: int, qmax: int, axis: int) -> Tensor:
    """`x` fake-quantized, differentiable for `x` and for `scale`.

    Args:
        x: [B, …] activations if `axis` is -1, else weights.
        scale: float32, [] or [x.shape[axis]], positive.
        zero_point: int32, shaped as `scale`.
        qmin: the smallest integer.
        qmax: the largest integer.
        axis: the channel dimension, or -1.
    """
    # per image: the loss is a mean over the batch, and so is this gradient
    count = x.numel() // max(1, x.shape[0] if axis < 0 and x.dim() > 1 else scale.numel())
    factor = 1.0 / (max(1, count) * qmax) ** 0.5
    if straight_through.applies(x):
        return straight_through.quantize(x, scale, zero_point, qmin=qmin, qmax=qmax, axis=axis, factor=factor)
    out: Tensor = _Learned.apply(x, scale, zero_point, qmin, qmax, axis, factor)
    return out


def _rounded(
    x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int
) -> tuple[Tensor, Tensor]:
    """`x` on the levels, and where it was between the ends."""
    if axis < 0:
        enabled = torch.ones(1, dtype=torch.int64, device=x.device)
        y, inside = torch._fake_quantize_per_tensor_affine_cachemask_tensor_qparams(
            x, scale, zero_point, enabled, qmin, qmax
        )
    else:
        y, inside = torch.ops.aten.fake_quantize_per_channel_affine_cachemask(
            x, scale, zero_point, axis, qmin, qmax
        )
    return y, inside


class _Learned(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        qmin: int,
        qmax: int,
        axis: int,
        factor: float,
    ) -> Tensor:
        y, inside = _rounded(x, scale, zero_point, qmin, qmax, axis)
        ctx.save_for_backward(x, inside, scale, zero_point)
        ctx.low, ctx.high, ctx.axis, ctx.factor = qmin, qmax, axis, factor
        ctx.given = straight_through.Given(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, inside, scale, zero_point = ctx.saved_tensors
        y = ctx.given.take(lambda: _rounded(x, scale, zero_point, ctx.low, ctx.high, ctx.axis)[0])
        passed = gradient * inside
        moved = gradient * y - passed * x
        if ctx.axis < 0:
            total = moved.sum(dtype=torch.float32)
        else:
            total = moved.sum([dim for dim in range(x.dim()) if dim != ctx.axis], dtype=torch.float32)
        return passed, total / scale * ctx.factor, None, None, None, None, None
