"""The levels of fixed-point arithmetic: power-of-two steps, and the three other ways to lay out `2^bits` codes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ...errors import unknown
from ..network import qdq_op

Mode = Literal["linear", "minmax", "log", "tanh"]
_LEAST = 1e-20
_SATURATION = 2.0
"""In mode 'tanh' the largest value lies where tanh(2) = 0.96 of its range is reached."""


def check_mode(mode: str) -> None:
    """Raise `InputError` unless `mode` lays out levels."""
    if mode not in get_args(Mode):
        raise unknown("mode", mode, get_args(Mode))


class FixedPoint(nn.Module):
    """Rounds its input to the levels of a `bits`-bit code between the ends in `range`, with straight-through gradient.

    With `v` the largest magnitude and `b` bits:

    - linear: multiples of `2^−f`, `f = b − 1 − ⌈log2 v⌉`, clamped to `−2^(b−1) … 2^(b−1) − 1` of them;
    - minmax: `2^b` levels evenly from the smallest to the largest value;
    - log: a sign, and `2^(b−1)` magnitudes evenly in their logarithm; zero stays zero;
    - tanh: `2^b` levels even in `tanh(x · 2/v)`, the outermost a quarter of a level inside, where the inverse is finite.

    Args:
        bits: 2 to 16, or 32.
        mode: see above.
    """

    range: Tensor
    """float32 [2]: the smallest and largest value it can give; of magnitudes in mode 'log'."""

    def __init__(self, bits: int, mode: Mode) -> None:
        super().__init__()
        self.bits, self.mode = bits, mode
        self.register_buffer("range", torch.tensor([-1.0, 1.0]))
        self.enabled = True
        """False: the input passes unchanged."""
        self.observer: Any = None
        """Sees every input while it is set."""

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"bits={self.bits}, mode={self.mode}"

    @torch.no_grad()
    def set_range(self, low: float, high: float, least: float = _LEAST) -> None:
        """Lay the levels out for values from `low` to `high`, of which the smallest magnitude is `least`."""
        largest = max(abs(low), abs(high), _LEAST)
        count = 1 << (self.bits - 1)
        if self.mode == "linear":
            step = 2.0 ** (math.ceil(math.log2(largest)) - (self.bits - 1))
            ends = (-count * step, (count - 1) * step)
        elif self.mode == "minmax":
            ends = (low, high)
        elif self.mode == "log":
            ends = (max(min(least, largest), _LEAST), largest)
        else:
            reach = math.atanh(_last(self.bits)) * largest / _SATURATION
            ends = (-reach, reach)
        self.range.copy_(torch.tensor(ends))

    @property
    def scale(self) -> Tensor:
        """Distance of two levels in mode 'linear'; in the others that it would be."""
        return self.range[1] / ((1 << (self.bits - 1)) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the levels, same shape and dtype."""
        if self.observer is not None:
            self.observer.see(x.detach())
        if not self.enabled:
            return x
        if self.mode == "linear":
            return self._linear(x)
        wide = x.detach() if x.dtype == torch.float64 else x.detach().float()
        y = _ROUND[self.mode](wide, self.range.to(wide.dtype), self.bits).to(x.dtype)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return y
        magnitude = x.detach().abs() if self.mode == "log" else x.detach()
        low = -torch.inf if self.mode == "log" else self.range[0]
        inside = (magnitude >= low) & (magnitude <= self.range[1])
        return y + (x - x.detach()) * inside

    def _linear(self, x: Tensor) -> Tensor:
        if self.bits == 32:  # finer than float32, whose numbers are all levels
            return x.clamp(self.range[0], self.range[1])
        count = 1 << (self.bits - 1)
        scale = self.scale
        zero = torch.zeros((), dtype=torch.int32, device=x.device)
        if torch.compiler.is_exporting():
            exported: Tensor = qdq_op.quantize_dequantize(x, scale, zero, -count, count - 1, -1)
            return exported
        return qdq_op.kernel(x, scale, zero, qmin=-count, qmax=count - 1, axis=-1)


def _minmax(x: Tensor, ends: Tensor, bits: int) -> Tensor:
    low, high = ends
    steps = (1 << bits) - 1
    width = (high - low).clamp_min(_LEAST)
    code = torch.round((x - low).clamp(torch.zeros_like(width), width) / width * steps)
    value: Tensor = code / steps * width + low
    return value


def _log(x: Tensor, ends: Tensor, bits: int) -> Tensor:
    magnitude = _minmax((x.abs() + _LEAST).log(), ends.log(), bits - 1)
    return x.sign() * magnitude.exp()


def _last(bits: int) -> float:
    """The outermost level of tanh, within the cell that is rounded to it."""
    return 1 - 0.5 / ((1 << bits) - 1)


def _tanh(x: Tensor, ends: Tensor, bits: int) -> Tensor:
    steps = (1 << bits) - 1
    last = _last(bits)
    unit = ends[1] / math.atanh(last)
    code = 2 * torch.round((torch.tanh(x / unit) + 1) / 2 * steps) / steps - 1
    value: Tensor = torch.atanh(code.clamp(-last, last)) * unit
    return value


_ROUND: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {"minmax": _minmax, "log": _log, "tanh": _tanh}
