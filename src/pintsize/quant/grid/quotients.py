"""Weight scales with which no result of a layer lies near the middle between two levels.

A layer's result is n · m levels, n an integer and `m = weight scale · input scale / output scale`. If m = p / q with q
odd, none lies nearer than 1 / (2q) to a middle k + ½, whatever n is: 2·n·p is even and q·(2k + 1) odd. Here p is the
power of two with which q is 257 to 511, but at least 1: then q is 1 / m.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .quantizer import LEAST

LOWEST, _HIGHEST = 257, 511
_LARGEST = 2**20 - 1
"""A channel whose q would be larger gives next to nothing; its bias must fit into an int32 accumulator."""


def odd_quotients(scale: Tensor, ratio: float | None) -> Tensor:
    """`scale` with no ties: changed by less than 0.4 %, or raised where a channel gives next to nothing.

    Args:
        scale: of the weights.
        ratio: output scale over input scale; None if the layer reads or gives floats: 8 significant bits are kept.
    """
    scale = scale.detach().clamp(min=1.01 * LEAST)  # the result must not fall below the least
    if ratio is None:
        return scale.bfloat16().to(scale.dtype)
    return join(*split(scale, ratio), ratio).to(scale)


def split(scale: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """The exponents of p and the odd q with which `scale` is next to `ratio · p / q`, int64."""
    m = scale.detach().double() / ratio
    exponent = torch.frexp((LOWEST - 1) * m).exponent.clamp(min=0).long()
    q = 2 * torch.round((torch.exp2(exponent.double()) / m - 1) / 2) + 1
    highest = torch.where(exponent > 0, _HIGHEST, _LARGEST)
    return exponent, torch.minimum(q, highest).clamp(min=LOWEST).long()


def join(exponent: Tensor, q: Tensor, ratio: float) -> Tensor:
    """The float32 next to `ratio · 2^exponent / q`."""
    return (ratio * torch.exp2(exponent.cpu().double()) / q.cpu()).float()
