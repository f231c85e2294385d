"""Pools that torch's own do not cover: other numbers on two sides, sizes that are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .table import function

_AVERAGES: tuple[Callable[..., Tensor], ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_MAXIMA: tuple[Callable[..., Tensor], ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


def flat(pads: Sequence[int]) -> list[int]:
    """Begins and ends of ONNX as torch's pairs, the last dimension first."""
    half = len(pads) // 2
    return [one for axis in reversed(range(half)) for one in (pads[axis], pads[half + axis])]


@function
def same_pads(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    lower: bool,
    value: float,
) -> Tensor:
    """Padded so that what follows gives as many values as there are strides in it."""
    pads: list[int] = []
    for axis in reversed(range(len(kernel))):
        size = x.shape[2 + axis]
        count = -(-size // stride[axis])
        missing = max((count - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1 - size, 0)
        less, more = missing // 2, missing - missing // 2
        pads += (more, less) if lower else (less, more)
    return F.pad(x, pads, value=value)


@function
def average_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[int],
    ceil_mode: bool,
    count_pads: bool,
) -> Tensor:
    """Mean of what a window sees; what is beyond the edge counts with `count_pads`."""
    pool = _AVERAGES[len(kernel) - 1]
    half = len(pads) // 2
    if list(pads[:half]) == list(pads[half:]) and all(
        2 * p <= k for p, k in zip(pads[:half], kernel, strict=True)
    ):
        return pool(x, kernel, stride, list(pads[:half]), ceil_mode, count_pads)
    padded = F.pad(x, flat(pads))
    made: Tensor = pool(padded, kernel, stride, 0, ceil_mode)
    if count_pads:
        return made
    seen = F.pad(torch.ones_like(x[:1, :1]), flat(pads))
    return made / pool(seen, kernel, stride, 0, ceil_mode)


@function
def max_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    """Largest value that a window sees."""
    padded = F.pad(x, flat(pads), value=-torch.inf)
    return _MAXIMA[len(kernel) - 1](padded, kernel, stride, 0, dilation, ceil_mode)


@function
def lp_pool(x: Tensor, kernel: Sequence[int], stride: Sequence[int], pads: Sequence[int], p: int) -> Tensor:
    """The p-norm of what a window sees."""
    padded = F.pad(x.abs() ** p, flat(pads))
    made: Tensor = _AVERAGES[len(kernel) - 1](padded, kernel, stride, 0)
    count = 1
    for one in kernel:
        count *= one
    return (made * count) ** (1 / p)


@function
def global_pool(x: Tensor, how: str, p: int = 2) -> Tensor:
    """One value for each channel."""
    over = tuple(range(2, x.dim()))
    if how == "mean":
        return x.mean(over, keepdim=True)
    return x.amax(over, keepdim=True) if how == "max" else (x.abs() ** p).sum(over, keepdim=True) ** (1 / p)
