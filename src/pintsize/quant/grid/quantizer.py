"""Fake quantization: a float tensor rounded to the values an integer tensor can stand for."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from ...errors import InputError
from ..network import qdq_op
from .lsq import learned

LEAST = 1e-8


class Observer(Protocol):
    """Sees the tensors that pass through a quantizer."""

    def see(self, x: Tensor) -> None:
        """Take note of one tensor, without gradient."""


def check_bits(bits: object, what: str, *, lowest: int = 2) -> int:
    """`bits` as an int, if it is one from `lowest` to 8.

    Raises:
        InputError: it is not; `what` names the option in the message.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not lowest <= bits <= 8:
        raise InputError(
            f"{what}={bits!r}",
            f"the number of bits must be a whole number from {lowest} to 8",
            "pass 8, or None to leave it in floating point",
        )
    return bits


class FakeQuantize(nn.Module):
    """Rounds its input to `2^bits` levels and gives floats back (Jacob et al., 1712.05877, section 3).

    `scale` (float32) and `zero_point` (int32) have shape [] or, with `axis`, [channels]. Gradients pass
    straight through inside the range and are zero outside of it. With 1 bit the levels are ±scale.

    Args:
        bits: 1 (signed only) to 8.
        signed: integers around zero rather than from zero up. At 8 bits they are -127…127, so that int8
            kernels never meet -128; below 8 bits every level counts and all `2^bits` are used.
        channels: number of scales; None for one scale per tensor.
        axis: the dimension of the input that `channels` counts; -1 with one scale per tensor.
        learnable: `scale` is a parameter (learned step size, Esser et al., 1902.08153).
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        bits: int = 8,
        *,
        signed: bool = False,
        channels: int | None = None,
        axis: int = -1,
        learnable: bool = False,
    ) -> None:
        super().__init__()
        self.bits = check_bits(bits, "bits", lowest=1 if signed else 2)
        self.signed = signed
        self.axis = axis if channels is not None else -1
        shape = () if channels is None else (channels,)
        self.learnable = learnable
        if learnable:
            self.scale = nn.Parameter(torch.ones(shape))
        else:
            self.register_buffer("scale", torch.ones(shape))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32))
        self.enabled = True
        """False: the input passes unchanged."""
        self.observer: Observer | None = None
        """Sees every input while it is set."""
        self.follow: float | None = None
        """In training the range is an average over the batches, with this weight of what was before."""
        self._scale_before: Tensor | None = None  # of the optimizer's step
        self._ends: tuple[Tensor, Tensor] | None = None  # the average, which scale and zero point round
        self.frozen = False
        """In training the range stays as it is, learned or followed."""

    @property
    def qmin(self) -> int:
        """The smallest integer."""
        if not self.signed:
            return 0
        return -127 if self.bits == 8 else -max(1, 1 << (self.bits - 1))

    @property
    def qmax(self) -> int:
        """The largest integer."""
        if not self.signed:
            return (1 << self.bits) - 1
        return max(1, (1 << (self.bits - 1)) - 1)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        kind = "signed" if self.signed else "unsigned"
        where = "" if self.axis < 0 else f", axis={self.axis}"
        return f"bits={self.bits}, {kind}{where}" + (", learnable" if self.learnable else "")

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the quantized grid, same shape and dtype."""
        if self.observer is not None:
            self.observer.see(x.detach())
        if not self.enabled:
            return x
        if self.learnable and not torch.compiler.is_exporting():
            self.after_optimizer_step()  # in a loop that is not ours nobody else calls it
            # .data: a second call in one forward must not invalidate the first
            self.scale.data.clamp_(min=LEAST)
        if self.training and torch.is_grad_enabled():
            self._prepare(x.detach())
        if self.bits == 1:
            x = self._binary(x)
        trained = torch.is_grad_enabled() and (x.requires_grad or self.scale.requires_grad)
        exact = x.dtype == torch.float64 and not trained
        if torch.compiler.is_exporting() or (exact and self.bits > 1):
            scale = self.scale.detach()
            exported: Tensor = qdq_op.quantize_dequantize(
                x, scale, self.zero_point, self.qmin, self.qmax, self.axis
            )
            return exported
        if self.bits == 1:
            return x
        if self.learnable and torch.is_grad_enabled():
            return learned(x, self.scale, self.zero_point, qmin=self.qmin, qmax=self.qmax, axis=self.axis)
        return qdq_op.kernel(x, self.scale, self.zero_point, qmin=self.qmin, qmax=self.qmax, axis=self.axis)

    def to_int(self, x: Tensor) -> Tensor:
        """The integers that stand for `x`: int8 if signed, else uint8; same shape as `x`."""
        scale, zero_point = self.along(x, self.scale.detach()), self.along(x, self.zero_point)
        x = x.detach()
        if self.bits == 1:
            return torch.where(x < 0, -1, 1).to(torch.int8)
        # times the inverse, not divided by: what the fused kernel does, so that both round alike
        integers = torch.round(x.float() * (1.0 / scale)) + zero_point
        return integers.clamp(self.qmin, self.qmax).to(torch.int8 if self.signed else torch.uint8)

    def to_float(self, integers: Tensor) -> Tensor:
        """The values that `integers` stand for."""
        scale, zero_point = self.along(integers, self.scale.detach()), self.along(integers, self.zero_point)
        return (integers.to(torch.int32) - zero_point).float() * scale

    @torch.no_grad()
    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Choose scale and zero point so that [low, high], widened to hold 0, is covered.

        A signed quantizer is symmetric: its zero point is 0. Zero is always a level exactly.

        Args:
            low: shaped as `scale`.
            high: shaped as `scale`, not below `low`.
        """
        low, high = low.double().clamp(max=0), high.double().clamp(min=0)
        if self.signed:
            scale = torch.maximum(low / self.qmin, high / self.qmax).clamp(min=LEAST)
            zero_point = torch.zeros_like(scale)
        else:
            scale = ((high - low) / (self.qmax - self.qmin)).clamp(min=LEAST)
            zero_point = torch.round(self.qmin - low / scale).clamp(self.qmin, self.qmax)
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)
        self._ends = None

    @torch.no_grad()
    def set_constant(self, value: Tensor) -> None:
        """Choose scale and zero point so that `value`, not 0, is a level exactly, with levels beyond it."""
        count = 1 << (self.qmax.bit_length() - 1)
        self.scale.copy_((value.abs() / count).clamp(min=LEAST))
        self.zero_point.copy_(torch.where(value < 0, 0 if self.signed else count, 0))
        self._ends = None

    def limits(self) -> tuple[Tensor, Tensor]:
        """The smallest and largest value it can give, shaped as `scale`."""
        scale = self.scale.detach()
        return (self.qmin - self.zero_point) * scale, (self.qmax - self.zero_point) * scale

    @torch.no_grad()
    def _prepare(self, x: Tensor) -> None:
        """In training: let the range follow `x`, or remember a learned scale."""
        if self.follow is not None and not self.frozen:
            dims = (
                [dim for dim in range(x.dim()) if dim != self.axis]
                if self.axis >= 0
                else list(range(x.dim()))
            )
            low, high = x.amin(dims).float(), x.amax(dims).float()
            before = self._ends or self.limits()
            ends = torch.lerp(low, before[0], self.follow), torch.lerp(high, before[1], self.follow)
            self.set_range(*ends)
            self._ends = ends
        elif self.learnable:
            self.scale.requires_grad_(not self.frozen)
            self._scale_before = self.scale.detach().clone()

    @torch.no_grad()
    def after_optimizer_step(self) -> None:
        """Let no step shrink a learned scale below half: at zero a channel would be lost for good."""
        if self._scale_before is not None:
            self.scale.data.copy_(torch.maximum(self.scale, 0.5 * self._scale_before))
            self._scale_before = None

    def _binary(self, x: Tensor) -> Tensor:
        sign = torch.where(x.detach() < 0, -1.0, 1.0)
        return self.along(x, self.scale) * sign + (x - x.detach())  # straight-through: d/dx is 1

    def along(self, x: Tensor, vector: Tensor) -> Tensor:
        """`vector`, shaped as `scale`, so that it broadcasts with `x`."""
        if self.axis < 0:
            return vector
        return vector.view([-1 if dim == self.axis else 1 for dim in range(x.dim())])
