"""Criteria: how much each unit of a channel group matters. A registry: a group in, a score per unit out.

Shape letters: `U` units of a group, `n` elements of one unit in one parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ...errors import InputError, unknown
from ...graph import ChannelGroup, Member
from .statistics import Statistics


class Criterion(Protocol):
    """Scores of one member of a group, or None where the criterion has nothing to say about it."""

    def __call__(self, member: Member, statistics: Statistics) -> Tensor | None:
        """Scores `[U]`, higher is more important."""
        ...


_CRITERIA: dict[str, Criterion] = {}


def criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Decorator: register a criterion under `name`, to be used as `importance=name`."""

    def register(function: Criterion) -> Criterion:
        _CRITERIA[name] = function
        return function

    return register


def names() -> list[str]:
    """The registered criteria."""
    return sorted(_CRITERIA)


@dataclass(frozen=True)
class Importance:
    """How scores of the members of a group become one score per unit."""

    criterion: str = "l2"
    """A registered criterion."""
    reduction: str = "mean"
    """Over the members of a group: mean, sum, max, l2."""
    normalize: str = "mean"
    """Within a group, so that groups compare: mean, max, sum, standard (z-score), none."""

    def __post_init__(self) -> None:
        for kind, name, choices in (
            ("importance", self.criterion, _CRITERIA),
            ("reduction", self.reduction, _REDUCTIONS),
            ("normalize", self.normalize, _NORMALIZE),
        ):
            if name not in choices:
                raise unknown(kind, name, choices)

    def scores(self, groups: Sequence[ChannelGroup], statistics: Statistics) -> list[Tensor]:
        """One score per unit for each group, shape `[U]`."""
        score = _CRITERIA[self.criterion]
        found = []
        for group in groups:
            parts = [part for member in group.members if (part := score(member, statistics)) is not None]
            if not parts:
                raise InputError(
                    f"importance {self.criterion!r}",
                    f"it has nothing to judge the channels of {group.name!r} by",
                    f"choose another criterion, or add {group.name!r} to ignore",
                )
            reduced = _REDUCTIONS[self.reduction](torch.stack([p.double().cpu() for p in parts]))
            if not bool(torch.isfinite(reduced).all()):
                raise InputError(
                    f"importance {self.criterion!r} of {group.name!r}",
                    "it is NaN or infinite",
                    "check the weights and the data for NaN",
                )
            found.append(_NORMALIZE[self.normalize](reduced))
        return found


_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda s: s.mean(0),
    "sum": lambda s: s.sum(0),
    "max": lambda s: s.amax(0),
    "l2": lambda s: s.square().sum(0).sqrt(),
}
_TINY = 1e-30
# Divisors are positive: scores of a user's criterion may be negative, and their order must stay.
_NORMALIZE: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda s: s / (s.abs().mean() + _TINY),
    "max": lambda s: s / (s.abs().amax() + _TINY),
    "sum": lambda s: s / (s.abs().sum() + _TINY),
    "standard": lambda s: (s - s.mean()) / (s.std(correction=0) + _TINY),
    "none": lambda s: s,
}


def units_of(member: Member, tensor: Tensor) -> Tensor:
    """The elements of `tensor`, shaped like the member's parameter, that belong to each unit: `[U, n]`."""
    rows = tensor.detach().movedim(member.dim, 0)[member.indices.to(tensor.device)]
    return rows.reshape(member.indices.shape[0], -1).float()


def _weights(member: Member, statistics: Statistics) -> Tensor | None:
    """`[U, n]` of a convolution or linear weight; None for vectors (biases, norms)."""
    tensor = statistics.parameter(member.parameter)
    return units_of(member, tensor) if tensor.dim() > 1 and isinstance(tensor, nn.Parameter) else None


def _norms(member: Member, statistics: Statistics, order: int) -> Tensor | None:
    """Σ |w|^order of each unit, `[U]`; None for vectors (biases, norms)."""
    tensor = statistics.parameter(member.parameter)
    if tensor.dim() < 2 or not isinstance(tensor, nn.Parameter):
        return None
    per_index = statistics.power_sum(member.parameter, member.dim, order)
    return per_index[member.indices.to(tensor.device)].sum(1)


@criterion("l1")
def l1(member: Member, statistics: Statistics) -> Tensor | None:
    """Sum of absolute weights (Li et al., 1608.08710, section 3.1)."""
    return _norms(member, statistics, 1)


@criterion("l2")
def l2(member: Member, statistics: Statistics) -> Tensor | None:
    """Euclidean norm of the weights (He et al., 1808.06866, section 3.2)."""
    energy = _norms(member, statistics, 2)
    return None if energy is None else energy.sqrt()


@criterion("lamp")
def lamp(member: Member, statistics: Statistics) -> Tensor | None:
    """Squared norm over the sum of all not smaller ones of the layer (Lee et al., 2010.07611, equation 2)."""
    energies = _norms(member, statistics, 2)
    if energies is None:
        return None
    energy, order = energies.double().sort(stable=True)
    not_smaller = energy.flip(0).cumsum(0).flip(0)
    return torch.empty_like(energy).index_copy_(0, order, energy / (not_smaller + _TINY))


@criterion("fpgm")
def fpgm(member: Member, statistics: Statistics) -> Tensor | None:
    """Sum of distances to the other filters of the layer (He et al., 1811.00250, equation 4)."""
    weights = _weights(member, statistics) if member.produces else None
    return None if weights is None else torch.cdist(weights, weights).sum(1)


@criterion("bn-scale")
def bn_scale(member: Member, statistics: Statistics) -> Tensor | None:
    """Absolute scale of the batch norm behind the layer (Liu et al., 1708.06519, section 3)."""
    path, _, key = member.parameter.rpartition(".")
    owner = statistics.model.get_submodule(path)
    if key != "weight" or not isinstance(owner, nn.modules.batchnorm._BatchNorm):
        return None
    return units_of(member, owner.weight).abs().sum(1)


@criterion("taylor")
def taylor(member: Member, statistics: Statistics) -> Tensor | None:
    """Squared first-order change of the loss, (Σ g·w)² (Molchanov et al., 1906.10771, equation 8)."""
    weights = _weights(member, statistics)
    if weights is None:
        return None
    return (weights * units_of(member, statistics.gradient(member.parameter))).sum(1).square()


@criterion("taylor2")
def taylor2(member: Member, statistics: Statistics) -> Tensor | None:
    """Absolute second-order change of the loss, |−g·w + ½·h·w²| with h = E[g²] (Molchanov et al., 1906.10771)."""
    weights = _weights(member, statistics)
    if weights is None:
        return None
    first = (weights * units_of(member, statistics.gradient(member.parameter))).sum(1)
    second = (weights.square() * units_of(member, statistics.squared_gradient(member.parameter))).sum(1)
    return (0.5 * second - first).abs()


@criterion("hessian")
def hessian(member: Member, statistics: Statistics) -> Tensor | None:
    """½·w²·H, H the diagonal of the Hessian (LeCun et al., OBD, 1989), by Hutchinson's estimate (1911.03852)."""
    weights = _weights(member, statistics)
    if weights is None:
        return None
    return (0.5 * weights.square() * units_of(member, statistics.hessian(member.parameter))).sum(1).abs()


@criterion("activation")
def activation(member: Member, statistics: Statistics) -> Tensor | None:
    """Mean absolute activation that the next layer reads (Molchanov et al., 1611.06440, section 2.2)."""
    return _read(member, statistics, statistics.mean_activation)


@criterion("apoz")
def apoz(member: Member, statistics: Statistics) -> Tensor | None:
    """1 − average percentage of zeros of what the next layer reads (Hu et al., 1607.03250, equation 1)."""
    return _read(member, statistics, statistics.nonzero_share)


def _read(member: Member, statistics: Statistics, of: Callable[[str], Tensor]) -> Tensor | None:
    """A per-channel statistic of the input of the layer that reads these channels."""
    path, _, key = member.parameter.rpartition(".")
    layer = statistics.model.get_submodule(path)
    if (
        member.produces
        or key != "weight"
        or member.dim != 1
        or not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    ):
        return None
    values = of(path)
    per_group = values.reshape(getattr(layer, "groups", 1), -1).mean(0)
    return per_group[member.indices].mean(1)


@criterion("random")
def random(member: Member, statistics: Statistics) -> Tensor | None:
    """Uniform numbers, the same for the same seed: the baseline to beat (Mittal et al., 1801.10447)."""
    weights = _weights(member, statistics) if member.produces else None
    return None if weights is None else torch.rand(weights.shape[0], generator=statistics.generator)
