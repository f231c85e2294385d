"""Channel attention: one learned factor per channel, whose normalised value decides what is removed.

Novshadian and Abdelefatah, Attention-based channel-wise pruning with QAT (2024), Alg. 1 and 2, after
He, Shi and Dong, 2111.02399. Legend: `U` units of a vector, `A` attention [U] in [0, 1], `Â` the same
normalised.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_TINY = 1e-12


class ChannelAttention(nn.Module):
    """An attention vector `A` of `U` units; calling it gives `Â` [U], zero for units that are removed.

    Args:
        units: channels, or sets of channels that can only go together.
        normalize: `max` divides by the largest value, `percentile` by that percentile of the vector (so
            at most so large a share of it can vanish), `none` by nothing.
        percentile: in percent.
        start: the ends of the uniform distribution of the first values.
        generator: of these.
    """

    kept: Tensor

    def __init__(
        self,
        units: int,
        *,
        normalize: str = "max",
        percentile: float = 75.0,
        start: tuple[float, float] = (0.4, 0.9),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        low, high = start
        self.attention = nn.Parameter(low + (high - low) * torch.rand(units, generator=generator))
        self.register_buffer("kept", torch.ones(units, dtype=torch.bool))
        self.normalize, self.percentile = normalize, percentile

    def forward(self) -> Tensor:
        """`Â`, [U]; with `percentile` the largest values are above 1."""
        values: Tensor = self.attention * self.kept
        if self.normalize == "none":
            return values
        top = values.amax() if self.normalize == "max" else torch.quantile(values, self.percentile / 100)
        return values / top.clamp_min(_TINY)

    @torch.no_grad()
    def bound(self) -> None:
        """Take `A` back into [0, 1] after a step of its optimizer."""
        self.attention.clamp_(0.0, 1.0)

    @torch.no_grad()
    def vanished(self, threshold: float) -> Tensor:
        """The units that are not removed yet and whose `Â` is below `threshold`, as indices."""
        values: Tensor = self()
        return ((values.abs() < threshold) & self.kept).nonzero().reshape(-1)

    @torch.no_grad()
    def remove(self, units: Tensor) -> None:
        """Remove `units` for good."""
        self.kept[units] = False

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"{len(self.attention)} units, normalize={self.normalize!r}"


def elastic_net(
    vectors: Iterable[Tensor], *, l1: float = 0.8, l2: float = 0.2, prices: Iterable[float] | None = None
) -> Tensor:
    """`Σ_l price_l · (α‖Â_l‖₁ + β‖Â_l‖₂)`: the norm is not squared (Alg. 2, line 6).

    Args:
        vectors: the normalised attentions, one or more.
        l1: `α`.
        l2: `β`.
        prices: a weight for each vector; 1 by default.
    """
    vectors = list(vectors)
    terms = [
        price * (l1 * vector.abs().sum() + l2 * _norm(vector))
        for vector, price in zip(vectors, [1.0] * len(vectors) if prices is None else prices, strict=True)
    ]
    return torch.stack(terms).sum()


def weight_penalty(weights: Iterable[Tensor], norm: str) -> Tensor:
    """`R(w)`: `l1` sums the magnitudes of all weights, `l2` the 2-norms of the layers."""
    terms = [weight.abs().sum() if norm == "l1" else _norm(weight) for weight in weights]
    return torch.stack(terms).sum()


def _norm(x: Tensor) -> Tensor:
    return (x.square().sum() + _TINY**2).sqrt()  # a gradient at zero, too
