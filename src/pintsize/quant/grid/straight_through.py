"""Fake quantization on a CPU by whole-tensor arithmetic, and its straight-through gradients.

PyTorch's fused CPU kernels work number by number: 3.4 ns each (one thread, torch 2.13), where a multiplication,
a rounding, a clamp and another multiplication, all vectorised, take 0.4 ns together. They round alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode


def applies(x: Tensor) -> bool:
    """Whether `x` is computed here: elsewhere one fused operation is faster, or is wanted by who records it."""
    return (
        x.device.type == "cpu"
        and x.dtype != torch.float64
        and not torch.compiler.is_compiling()
        and _get_current_dispatch_mode() is None
    )


def quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    *,
    qmin: int,
    qmax: int,
    axis: int,
    factor: float | None = None,
) -> Tensor:
    """`(clamp(round(x / scale) + zero_point, qmin, qmax) - zero_point) * scale`, differentiable for `x`.

    Args:
        x: on the CPU.
        scale: float32, [] if `axis` is -1, else [x.shape[axis]], positive.
        zero_point: int32, shaped as `scale`.
        qmin: the smallest integer.
        qmax: the largest integer.
        axis: the channel dimension, or -1.
        factor: of the gradient for `scale` (learned step size); None: there is none.
    """
    rounded: Tensor = _Quantize.apply(x, scale, zero_point, qmin, qmax, axis, factor)
    return rounded


_PIECE = 2**21
"""Numbers that are worked on at once: what is in the cache is read and written some times faster, and no large tensor
is needed besides the result (fresh memory costs a CPU more than the arithmetic)."""


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one memory layout, a stretch of memory at a time."""
    if tensors[0].numel() <= _PIECE:
        return iter([tensors])
    flat = (t.as_strided((t.numel(),), (1,)).split(_PIECE) for t in tensors)
    return zip(*flat, strict=True)


def _dense(x: Tensor) -> Tensor:
    """`x`, or its copy if there are gaps between its numbers."""
    layouts = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)
    return x if any(x.is_contiguous(memory_format=layout) for layout in layouts) else x.contiguous()


def _along(vector: Tensor, x: Tensor, axis: int) -> Tensor:
    return vector if axis < 0 else vector.view([-1 if dim == axis else 1 for dim in range(x.dim())])


def _masked(values: Tensor, by: Tensor, low: Any, high: Any) -> Tensor:
    """`values` where `low < by < high`, else 0."""
    if isinstance(low, Tensor):
        return torch.where((by > low) & (by < high), values, torch.zeros((), dtype=values.dtype))
    inside: Tensor = torch.ops.aten.hardtanh_backward(values, by, low, high)
    return inside


def _rounded(x: Tensor, step: Tensor, low: Any, high: Any) -> Tensor:
    """`clamp(round(x / step), low, high) * step`; `x` is dense, `step` one number or shaped along an axis of it."""
    y, inverse = torch.empty_like(x), 1.0 / step
    for given, made in _pieces(x, y) if step.dim() == 0 else [(x, y)]:
        wide = (
            torch.mul(given, inverse, out=made) if x.dtype == torch.float32 else given.float().mul_(inverse)
        )
        wide.round_().clamp_(low, high).mul_(step)
        if wide is not made:
            made.copy_(wide)
    return y


class Given:
    """What a quantizer gave, kept for the gradient of its scale.

    It belongs to the network, which may go on to write into it (`out += identity`); then it is made anew. Autograd's own
    saved tensors would refuse.
    """

    def __init__(self, y: Tensor) -> None:
        self._y: Tensor | None = y.detach()  # an alias, with the same count of writes
        self._writes = y._version

    def take(self, again: Callable[[], Tensor]) -> Tensor:
        """It, or what `again` makes; it is let go."""
        y, self._y = self._y, None
        return y if y is not None and y._version == self._writes else again()


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        qmin: int,
        qmax: int,
        axis: int,
        factor: float | None,
    ) -> Tensor:
        step = _along(scale.detach(), x, axis).float()
        low: Any
        high: Any
        if axis < 0 or qmin < 0:  # a signed quantizer has no zero point
            zero = int(zero_point) if axis < 0 else 0
            low, high = qmin - zero, qmax - zero
        else:
            low, high = (end - _along(zero_point, x, axis) for end in (qmin, qmax))
        x = _dense(x)
        y = _rounded(x, step, low, high)
        ctx.save_for_backward(x, scale)
        ctx.low, ctx.high, ctx.axis, ctx.factor = low, high, axis, factor
        ctx.given = Given(y) if factor is not None else None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        low, high = ctx.low - 0.5, ctx.high + 0.5
        step = _along(scale.detach(), x, ctx.axis).float()
        given = []
        if ctx.given is not None:
            given = [ctx.given.take(lambda: _rounded(x, step, ctx.low, ctx.high))]
        if ctx.axis < 0:
            passed, total = _for_tensor(gradient, x, float(scale), (low, high), given)
        else:
            passed, total = _for_channels(gradient, x, step, (low, high), given)
        slope = None if total is None else (total * -ctx.factor).reshape(scale.shape)
        return passed, slope, None, None, None, None, None


def _for_tensor(
    gradient: Tensor, x: Tensor, scale: float, ends: tuple[Any, Any], quantized: list[Tensor]
) -> tuple[Tensor, Tensor | None]:
    """Gradients for `x` and, but for its factor, for the one scale (if `quantized` has what came of `x`)."""
    low, high = (end * scale for end in ends)  # in the units of x, where y − x is exact even in bfloat16
    if gradient.stride() != x.stride():
        gradient = torch.empty_like(x, dtype=gradient.dtype).copy_(gradient)
    passed, total = torch.empty_like(gradient), torch.zeros(())
    for upper, by, lower, *y in _pieces(gradient, x, passed, *quantized):
        if by.dtype == lower.dtype:
            torch.ops.aten.hardtanh_backward.grad_input(upper, by, low, high, grad_input=lower)
        else:
            lower.copy_(_masked(upper.to(by.dtype), by, low, high))
        if y:
            total += _masked(by, by, low, high).sub_(y[0]).mul_(upper).sum(dtype=torch.float32)
    return passed, total / scale if quantized else None


def _for_channels(
    gradient: Tensor, x: Tensor, step: Tensor, ends: tuple[Any, Any], quantized: list[Tensor]
) -> tuple[Tensor, Tensor | None]:
    """The same for a scale of each channel, `step`."""
    inverse = 1.0 / step
    by = x.float() * inverse
    passed = _masked(gradient.float(), by, *ends).to(gradient.dtype)
    if not quantized:
        return passed, None
    moved = _masked(by, by, *ends).sub_(quantized[0].float() * inverse).mul_(gradient)
    return passed, moved.sum([dim for dim in range(x.dim()) if step.shape[dim] == 1], dtype=torch.float32)
