"""Choosing the range of a quantizer from the values it meets.

Activations are seen batch by batch: once for their extent, and for the methods that weigh clipping
against rounding a second time for a histogram over that extent. Weights are at hand whole.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ...errors import unknown
from ..grid.quantizer import FakeQuantize

Method = Literal["minmax", "ema", "percentile", "mse", "entropy"]
BINS = 2048
_COARSE, _FINE = 32, 16
_OF_ZEROS = 2.0**-12


def check_method(method: str) -> None:
    """Raise `InputError` unless `method` names a way to choose ranges."""
    if method not in get_args(Method):
        raise unknown("method", method, get_args(Method))


class ExtentObserver:
    """Smallest and largest value seen; with `decay`, of a moving average over the batches.

    Args:
        decay: weight of what was seen before in an exponential moving average; None: over everything.
    """

    def __init__(self, decay: float | None = None) -> None:
        self.decay = decay
        self.count = 0
        self.low = torch.tensor(0.0)
        self.high = torch.tensor(0.0)

    def see(self, x: Tensor) -> None:
        """Widen, or with a decay move, the extent to that of `x`."""
        low, high = (end.float() for end in torch.aminmax(x))
        if self.count == 0:
            self.low, self.high = low, high
        elif self.decay is None:
            self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        else:
            self.low, self.high = (
                torch.lerp(low, self.low, self.decay),
                torch.lerp(high, self.high, self.decay),
            )
        self.count += 1


class HistogramObserver:
    """How often each of `BINS` equal slices of [low, high] was met."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.low, self.high = float(low), float(high)
        self.counts = torch.zeros(BINS, dtype=torch.float64)

    def see(self, x: Tensor) -> None:
        """Count the elements of `x`."""
        self.counts += torch.histc(x.float(), BINS, self.low, self.high).double().cpu()

    @property
    def edges(self) -> Tensor:
        """The `BINS + 1` ends of the slices, float64."""
        return torch.linspace(self.low, self.high, BINS + 1, dtype=torch.float64)


def activation_range(
    method: str, histogram: HistogramObserver, bits: int, *, percentile: float = 99.99
) -> tuple[Tensor, Tensor]:
    """Range of an affine quantizer for the values in `histogram`: (low, high), both float64 scalars.

    Args:
        method: 'percentile', 'mse' or 'entropy'.
        histogram: of the values.
        bits: of the quantizer.
        percentile: share of the values, in percent, that 'percentile' keeps inside.
    """
    if method == "percentile":
        return _percentile(histogram, percentile)
    centres = (histogram.edges[1:] + histogram.edges[:-1]) / 2
    low = torch.tensor(min(histogram.low, 0.0), dtype=torch.float64)
    high = torch.tensor(max(histogram.high, 0.0), dtype=torch.float64)
    score = _squared_error if method == "mse" else _divergence
    shrink = torch.linspace(1.0, 0.02, 100, dtype=torch.float64)
    for _ in range(2):  # each end in turn: the best of one depends little on the other
        if high > 0:
            high = (high * shrink)[
                score(centres, histogram.counts, low.expand(100), high * shrink, bits).argmin()
            ]
        if low < 0:
            low = (low * shrink)[
                score(centres, histogram.counts, low * shrink, high.expand(100), bits).argmin()
            ]
    return low, high


@torch.no_grad()
def set_weight_range(quantizer: FakeQuantize, weight: Tensor, method: str = "mse") -> None:
    """Set the scales of a symmetric weight quantizer from the weights themselves.

    With 'minmax' the largest magnitude is the end of the range; every other method looks for the scale
    of least squared error, per channel. A channel of zeros gets the largest scale of the others, a layer of zeros one
    that is fine enough for its bias.

    Args:
        quantizer: signed; per channel or per tensor.
        weight: finite values, laid out as `quantizer.axis` says.
        method: as for activations.
    """
    rows = weight.detach().float()
    rows = rows.reshape(1, -1) if quantizer.axis < 0 else rows.movedim(quantizer.axis, 0).flatten(1)
    largest = rows.abs().amax(1)
    if quantizer.bits == 1:  # ±scale nearest to the weights: their mean magnitude (Rastegari, 1603.05279)
        scale = rows.abs().mean(1)
    elif method == "minmax":
        scale = largest / quantizer.qmax
    else:
        scale = _least_error_scale(rows, largest / quantizer.qmax, quantizer.qmin, quantizer.qmax)
    spare = scale.max() if scale.max() > 0 else torch.full_like(scale[0], _OF_ZEROS)
    scale = torch.where(scale > 0, scale, spare)
    quantizer.scale.copy_(scale.reshape(quantizer.scale.shape))
    quantizer.zero_point.zero_()


def _least_error_scale(rows: Tensor, start: Tensor, qmin: int, qmax: int) -> Tensor:
    """Per row of [R, N] the scale at or below `start` [R] of least squared rounding error."""
    zero_point = torch.zeros(len(rows), dtype=torch.int32, device=rows.device)
    start = start.clamp_min(torch.finfo(torch.float32).tiny)

    def search(fractions: Tensor) -> Tensor:
        """The best of [K, R] candidate fractions, per row."""
        errors = torch.stack(
            [
                (
                    torch.fake_quantize_per_channel_affine(rows, start * fraction, zero_point, 0, qmin, qmax)
                    - rows
                )
                .square()
                .sum(1)
                for fraction in fractions
            ]
        )
        return fractions.gather(0, errors.argmin(0, keepdim=True))[0]

    step = 1.0 / _COARSE
    coarse = torch.arange(_COARSE, 0, -1, device=rows.device) * step
    best = search(coarse[:, None].expand(-1, len(rows)).contiguous())
    fine = torch.linspace(-step, step, _FINE + 1, device=rows.device)[:, None]
    best = search((best + fine).clamp(step / 4, 1.0))
    return torch.where(rows.abs().amax(1) > 0, start * best, torch.zeros_like(start))


def _percentile(histogram: HistogramObserver, percentile: float) -> tuple[Tensor, Tensor]:
    share = histogram.counts.cumsum(0) / histogram.counts.sum()
    outside = (1 - percentile / 100) / (2 if histogram.low < 0 < histogram.high else 1)
    edges = histogram.edges
    high = edges[1:][torch.searchsorted(share, 1 - outside).clamp(max=BINS - 1)]
    low = edges[
        torch.searchsorted(share, torch.tensor(outside, dtype=share.dtype), right=True).clamp(max=BINS - 1)
    ]
    return (low if histogram.low < 0 else edges[0]), (high if histogram.high > 0 else edges[-1])


def _rounded(centres: Tensor, low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """`centres` [BINS] quantized with each of K ranges: integers [K, BINS] from 0, and scales [K, 1]."""
    scale = ((high - low) / ((1 << bits) - 1)).clamp_min(1e-300)[:, None]
    zero = torch.round(-low[:, None] / scale)
    return (torch.round(centres / scale) + zero).clamp(0, (1 << bits) - 1) - zero, scale


def _squared_error(centres: Tensor, counts: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    integers, scale = _rounded(centres, low, high, bits)
    return ((integers * scale - centres).square() * counts).sum(1)


def _divergence(centres: Tensor, counts: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """KL divergence of the quantized from the clipped distribution, per range (Migacz, GTC 2017, s7310)."""
    integers, _ = _rounded(centres, low, high, bits)
    # zero is a level exactly, and after a ReLU far more frequent than the values around it
    counts = counts.masked_fill(torch.arange(BINS) == centres.abs().argmin(), 0.0)
    levels = (integers - integers.amin(1, keepdim=True)).long()
    inside = (centres >= low[:, None]) & (centres <= high[:, None])
    kept = torch.where(inside, counts, 0.0)
    # what each level holds is spread evenly over those of its slices that were met …
    empty = torch.zeros(len(low), 1 << bits, dtype=counts.dtype)
    mass = empty.scatter_add(1, levels, kept)
    slices = empty.scatter_add(1, levels, (kept > 0).double())
    quantized = (mass / slices.clamp_min(1)).gather(1, levels) * (kept > 0)
    # … and the reference has what was clipped piled up at its ends
    first, last = _ends(inside)
    below = torch.where(centres < low[:, None], counts, 0.0).sum(1, keepdim=True)
    above = torch.where(centres > high[:, None], counts, 0.0).sum(1, keepdim=True)
    reference = kept.scatter_add(1, first, below).scatter_add(1, last, above)
    p = reference / reference.sum(1, keepdim=True)
    q = quantized / quantized.sum(1, keepdim=True).clamp_min(1e-300)
    return torch.where(p > 0, p * (p.clamp_min(1e-300) / q.clamp_min(1e-12)).log(), 0.0).sum(1)


def _ends(inside: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the first and last True of each row, [K, 1] each."""
    positions = torch.arange(inside.shape[1]).expand_as(inside)
    first = torch.where(inside, positions, inside.shape[1] - 1).amin(1, keepdim=True)
    last = torch.where(inside, positions, 0).amax(1, keepdim=True)
    return first, last
