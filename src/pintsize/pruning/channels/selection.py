"""Which units go: local, global or isomorphic ranking, rounded, solved for a target."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...graph import ChannelGroup
from .costs import Cost

SCOPES = ("local", "global", "isomorphic")
CLOSE = 0.01
"""How close to a target of cost a pruning comes unless rounding forbids it."""


@dataclass(frozen=True)
class Candidates:
    """Groups that may be pruned, with a score per unit and the limits of each."""

    groups: Sequence[ChannelGroup]
    scores: Sequence[Tensor]
    """Per group `[U]`."""
    scope: str
    pools: Sequence[int]
    """Per group the pool it is ranked in; its own for local scope."""
    round_to: Sequence[int]
    """Per group: its channels are kept in multiples of this."""
    min_channels: int
    weights: Sequence[float] = field(default_factory=list)
    """Per group: its ratio over the common one (1 unless ratios were given by pattern)."""

    left: Sequence[float] = field(default_factory=list)
    """Per group: the share of its channels that earlier rounds left; shares to remove count those that went."""

    start: tuple[float, float] | None = None
    """Channels of all groups before the first round, and how many of them went since."""

    def wanted(self, index: int, level: float) -> float:
        """Units of a group that make up the share `level`, beside those that went earlier."""
        size = self.groups[index].size
        whole = size / self.left[index] if self.left else float(size)
        return max(0.0, min(level, 1.0) * whole - (whole - size))

    def limit(self, index: int) -> int:
        """Most units that may go from a group."""
        group = self.groups[index]
        least = max(1, -(-self.min_channels // group.channels))
        return max(0, group.size - least)

    def rounded(self, index: int, removed: float) -> int:
        """The nearest number of removed units that leaves a multiple of `round_to` channels."""
        multiple = self.round_to[index]
        removed = min(int(removed + 1e-9), self.limit(index))
        if multiple <= 1 or removed == 0:
            return removed
        choices = self.choices(index)
        at = bisect.bisect_left(choices, removed)
        near = choices[max(0, at - 1) : at + 1]
        return min(near, key=lambda count: (abs(count - removed), count)) if near else 0

    def choices(self, index: int) -> list[int]:
        """All numbers of removed units that are allowed in a group, ascending."""
        group, multiple = self.groups[index], self.round_to[index]
        return [
            count
            for count in range(self.limit(index) + 1)
            if count == 0 or ((group.size - count) * group.channels) % multiple == 0
        ]


def pools(model: nn.Module, groups: Sequence[ChannelGroup], scope: str) -> list[int]:
    """The pool of each group: groups in one pool are ranked together.

    Isomorphic: groups whose layers are of the same kinds, connected alike (Fang et al., 2407.04616, section 3.2).
    """
    if scope == "global":
        return [0] * len(groups)
    if scope == "local":
        return list(range(len(groups)))
    shapes: dict[tuple[tuple[str, str, int, bool], ...], int] = {}
    found = []
    for group in groups:
        kinds = []
        for member in group.members:
            path, _, key = member.parameter.rpartition(".")
            kinds.append((type(model.get_submodule(path)).__name__, key, member.dim, member.produces))
        found.append(shapes.setdefault(tuple(sorted(set(kinds))), len(shapes)))
    return found


def counts(candidates: Candidates, level: float) -> list[int]:
    """How many units go from each group when the share `level` of each pool's channels goes."""
    if candidates.scope == "local":
        return [
            candidates.rounded(i, candidates.wanted(i, level * candidates.weights[i]))
            for i in range(len(candidates.groups))
        ]
    removed = [0.0] * len(candidates.groups)
    for pool in set(candidates.pools):
        inside = [i for i, p in enumerate(candidates.pools) if p == pool]
        for i, count in zip(inside, _lowest(candidates, inside, level), strict=True):
            removed[i] = count
    return [candidates.rounded(i, count) for i, count in enumerate(removed)]


def missed(candidates: Candidates, level: float, removed: Sequence[int]) -> str:
    """A note if `removed` is further from the share `level` than a unit of each group accounts for, or nothing."""
    channels = [group.channels for group in candidates.groups]
    total = sum(group.size * group.channels for group in candidates.groups)
    asked = sum(candidates.wanted(i, level * candidates.weights[i]) * each for i, each in enumerate(channels))
    gone = sum(count * each for count, each in zip(removed, channels, strict=True))
    if asked < 1e-9 or (gone and abs(asked - gone) < sum(channels)):
        return ""
    return (
        f"ratio: {gone / total:.3f} of the channels removed of the {asked / total:.3f} asked for; "
        "whole units, round_to and min_channels allow no closer"
    )


def _lowest(candidates: Candidates, inside: list[int], level: float) -> list[int]:
    """Units per group among the lowest-scored ones that make up the share `level` of the pool's channels."""
    scores = torch.cat([candidates.scores[i] / candidates.weights[i] for i in inside])
    size = torch.cat(
        [torch.full((candidates.groups[i].size,), candidates.groups[i].channels) for i in inside]
    )
    owner = torch.cat([torch.full((candidates.groups[i].size,), k) for k, i in enumerate(inside)])
    if candidates.scope == "global" and candidates.start is not None:  # also of groups that are at their end
        whole, went = candidates.start
    else:
        whole = sum(
            candidates.groups[i].size
            * candidates.groups[i].channels
            / (candidates.left[i] if candidates.left else 1)
            for i in inside
        )
        went = whole - float(size.sum())
    goal = level * whole - went
    order = torch.argsort(scores, stable=True)
    taken = [0] * len(inside)
    limits = [candidates.limit(i) for i in inside]
    gone = 0
    for unit in order.tolist():
        k = int(owner[unit])
        if taken[k] < limits[k]:
            if gone + int(size[unit]) > goal + 1e-9:
                break
            taken[k] += 1
            gone += int(size[unit])
    return taken


def solve(
    candidates: Candidates,
    cost: Callable[[Sequence[int]], float],
    target: float,
    name: str,
    *,
    strict: bool = True,
) -> tuple[list[int], str]:
    """The counts whose cost is the given share of the whole, as close below it as rounding allows.

    Returns:
        Removed units per group, and a note if the target is not reached within 1 %.

    Raises:
        InputError: even the largest pruning costs more.
    """
    whole = cost([0] * len(candidates.groups))
    goal = target * whole
    least = cost(counts(candidates, 1.0))
    if least > goal * (1 + CLOSE) and strict:
        raise InputError(
            f"{name}={target:g}",
            f"the most that can be pruned leaves {least / whole:.3f} of it, {least / whole - target:.3f} too much",
            "ask for more, or lower min_channels, round_to or ignore",
        )
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(counts(candidates, middle)) <= goal else (middle, high)
    best = _fill(candidates, counts(candidates, high), cost, goal)
    reached = cost(best) / whole
    note = (
        ""
        if abs(reached - target) <= CLOSE * target
        else f"{name}: {reached:.3f} kept of the {target:g} asked for; rounding allows no closer"
    )
    return best, note


def _fill(
    candidates: Candidates, removed: list[int], cost: Callable[[Sequence[int]], float], goal: float
) -> list[int]:
    """Give back the best-scored units as long as the cost stays at or under the goal."""
    choices = [candidates.choices(i) for i in range(len(candidates.groups))]
    ranked = [torch.sort(scores).values for scores in candidates.scores]
    open_groups = {i for i, count in enumerate(removed) if count > 0}
    while open_groups:
        best = max(open_groups, key=lambda i: float(ranked[i][removed[i] - 1]) / candidates.weights[i])
        at = bisect.bisect_left(choices[best], removed[best]) - 1
        trial = list(removed)
        trial[best] = choices[best][max(at, 0)]
        if cost(trial) <= goal:
            removed = trial
        else:
            open_groups.discard(best)
        if removed[best] == 0:
            open_groups.discard(best)
    return removed


def choose(candidates: Candidates, removed: Sequence[int]) -> list[Tensor]:
    """The units that go: the lowest-scored of each group, ties by position."""
    return [
        torch.argsort(scores, stable=True)[:count].sort().values
        for scores, count in zip(candidates.scores, removed, strict=True)
    ]


__all__ = ["CLOSE", "SCOPES", "Candidates", "Cost", "choose", "counts", "missed", "pools", "solve"]
