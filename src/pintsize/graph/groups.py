"""Channel groups: which indices of which parameter dimensions must be removed together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import OperationError
from . import ops, reduce_ops, shape_ops  # noqa: F401 (they register their rules)
from .labels import FIXED, Labels, compact, dims_of
from .sources import windows
from .trace import Op, Trace, Value, record, record_training

Removed = dict[str, dict[int, list[int]]]
"""Parameter name → dimension → sorted indices."""

OUTPUT = "it is an output of the network"
_FIXED_SIZE = "it meets a tensor whose size is fixed"


@dataclass(frozen=True)
class Member:
    """One parameter dimension of a group."""

    parameter: str
    dim: int
    indices: Tensor
    """[U, k]: unit u takes these k indices."""
    produces: bool
    """Whether a layer computes these channels (else it reads them, or only scales them)."""


@dataclass(frozen=True)
class ChannelGroup:
    """Units (channels, heads) that can each be removed from every place where they appear."""

    name: str
    """Path of the first layer that computes these channels."""
    size: int
    """Number of units U."""
    members: tuple[Member, ...]

    @property
    def channels(self) -> int:
        """Channels of the first layer that one unit stands for."""
        return next(m for m in self.members if m.produces).indices.shape[1]

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths of all layers that compute these channels."""
        return tuple(dict.fromkeys(m.parameter.rpartition(".")[0] for m in self.members if m.produces))

    def removed(self, units: Sequence[int] | Tensor) -> Removed:
        """What goes from each parameter when `units` are removed."""
        chosen = torch.as_tensor(units, dtype=torch.long)
        found: Removed = {}
        for member in self.members:
            found.setdefault(member.parameter, {})[member.dim] = sorted(
                member.indices[chosen].reshape(-1).tolist()
            )
        return found

    def __repr__(self) -> str:
        where = ", ".join(f"{m.parameter}[{m.dim}]" for m in self.members[:4])
        more = f", … {len(self.members) - 4} more" if len(self.members) > 4 else ""
        return f"ChannelGroup({self.name!r}, {self.size} units: {where}{more})"


def union(parts: Sequence[Removed]) -> Removed:
    """All removals together."""
    found: Removed = {}
    for part in parts:
        for name, dims in part.items():
            own = found.setdefault(name, {})
            for dim, indices in dims.items():
                own[dim] = sorted({*own[dim], *indices}) if dim in own else sorted(indices)
    return {name: dict(sorted(found[name].items())) for name in sorted(found)}


class _Places:
    """The indices of all dimensions of all parameters in a row."""

    def __init__(self, trace: Trace, labels: Labels) -> None:
        self._dimensions = list(labels.first)
        self._sizes = torch.tensor([trace.parameters[name].shape[dim] for name, dim in self._dimensions])
        starts = torch.tensor(list(labels.first.values()))
        self._dimension = self._repeat(torch.arange(len(starts)))
        marks = torch.randint(1 << 62, (len(starts),), generator=torch.Generator().manual_seed(0))
        self.index = torch.arange(int(self._sizes.sum())) - self._repeat(self._sizes.cumsum(0) - self._sizes)
        """In its dimension."""
        self.ids = self._repeat(starts) + self.index
        self.marks = self._repeat(marks)
        """A random number of its dimension."""

    def _repeat(self, per_dimension: Tensor) -> Tensor:
        return torch.repeat_interleave(per_dimension, self._sizes)

    def touched(self, ids: Tensor) -> list[tuple[str, int]]:
        """The dimensions that hold any of `ids`, a mask."""
        return [self._dimensions[k] for k in self._dimension[ids[self.ids]].unique().tolist()]

    def runs(self, own: Tensor, group: Tensor) -> Iterator[tuple[str, int, int, Tensor]]:
        """Parameter, dimension, group and the indices there by rising `own`, for each group in each dimension.

        Args:
            own: the component of each place.
            group: the number of its group; negative: it is in none.
        """
        here = (group >= 0).nonzero().reshape(-1)
        here = here[own[here].argsort(stable=True)]
        count = int(group.max()) + 1
        run, order = (self._dimension[here] * count + group[here]).sort(stable=True)
        keys, lengths = run.unique_consecutive(return_counts=True)
        parts = self.index[here[order]].split(lengths.tolist())
        for key, rows in zip(keys.tolist(), parts, strict=True):
            yield *self._dimensions[key // count], key % count, rows


class Graph:
    """A traced network with its channel groups."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.labels = Labels(trace, windows(trace))
        self.live = trace.live()
        for op in trace.all_ops:
            if op in self.live:  # what nobody reads asks for nothing
                ops.apply(op, self.labels)
        self._join_copies()
        self._places = _Places(trace, self.labels)
        for value in trace.all_outputs:
            self.labels.freeze(self.labels.of(value), OUTPUT)
        self.settle()

    def _join_copies(self) -> None:
        """A norm that shares its weight keeps statistics of its own, which go with the weight even if it never runs."""
        first, parameters = self.labels.first, self.trace.parameters
        for alias, name in self.trace.aliases.items():
            path, _, key = alias.rpartition(".")
            for other in ("bias", "running_mean", "running_var") if key == "weight" else ():
                own = f"{path}.{other}"
                if (own, 0) in first and parameters[own].shape == parameters[name].shape:
                    ids = torch.arange(parameters[own].shape[0])
                    self.labels.join(first[own, 0] + ids, first[name, 0] + ids)

    def settle(self) -> None:
        """Find the groups anew, after ids were joined or frozen."""
        self.component = self.labels.settle_grids()
        self.groups = self._groups()

    def _groups(self) -> list[ChannelGroup]:
        count = self.labels.count
        candidate = torch.zeros(count, dtype=torch.bool)
        source = torch.zeros(count, dtype=torch.bool)
        for ids in self.labels.sources:
            source[ids] = True
            candidate[self.component[ids]] = True
        candidate[FIXED] = False
        self._sources = source
        places = self._places
        own = self.component[places.ids]
        signature = torch.zeros(count, dtype=torch.long)  # equal sums: same places, same counts
        signature.index_add_(0, own, places.marks)
        chosen = candidate.nonzero().reshape(-1)
        by_signature: dict[int, list[int]] = {}
        for unit, mark in zip(chosen.tolist(), signature[chosen].tolist(), strict=True):
            by_signature.setdefault(mark, []).append(unit)
        group_of = torch.full((count,), -1)
        units = [len(alike) for alike in by_signature.values()]
        for number, alike in enumerate(by_signature.values()):
            group_of[torch.tensor(alike)] = number
        members: list[list[Member]] = [[] for _ in by_signature]
        for name, dim, number, rows in places.runs(own, group_of[own]):
            index = rows.reshape(units[number], -1)
            produces = bool(source[self.labels.first[name, dim] + index[0, 0]])
            members[number].append(Member(name, dim, index, produces))
        made = [self._group(found) for found in members if any(m.produces for m in found)]
        made = [group for group in made if group.size > 1]  # the last unit of a group cannot go
        position = {name: k for k, name in enumerate(self.trace.parameters)}
        return sorted(made, key=lambda g: min(position[m.parameter] for m in g.members if m.produces))

    def _group(self, members: list[Member]) -> ChannelGroup:
        first = next(m for m in members if m.produces)
        return ChannelGroup(first.parameter.rpartition(".")[0], first.indices.shape[0], tuple(members))

    def gone(self, removed: Mapping[str, Mapping[int, Sequence[int]]]) -> Tensor:
        """For each id whether it is removed."""
        ids = [
            self.labels.first[name, dim] + index
            for name, dims in removed.items()
            for dim, indices in dims.items()
            for index in indices
        ]
        roots = torch.zeros(self.labels.count, dtype=torch.bool)
        roots[self.component[torch.tensor(ids, dtype=torch.long)]] = True
        roots[FIXED] = False
        return roots[self.component]

    def kept_index(self, value: Value, gone: Tensor) -> list[Tensor | None]:
        """For each dimension of `value` the indices that are kept; None where all are."""
        result: list[Tensor | None] = [None] * len(value.shape)
        for layer in self.labels.of(value):
            varying = dims_of(layer)
            if len(varying) == 1:  # nearly all of them
                left = (~gone[layer.reshape(-1)]).nonzero().reshape(-1)
                if 0 < len(left) < value.shape[varying[0]]:
                    result[varying[0]] = left
                continue
            now = compact(gone[layer])
            for dim in dims_of(now):
                rest = now.movedim(dim, 0).reshape(now.shape[dim], -1)
                keep = (~rest.all(1)).nonzero().reshape(-1)
                result[dim] = keep
        return result

    def kept_shape(self, value: Value, gone: Tensor) -> tuple[int, ...]:
        """The shape of `value` once the ids that are `gone` are removed."""
        kept = self.kept_index(value, gone)
        return tuple(size if k is None else len(k) for size, k in zip(value.shape, kept, strict=True))

    def unsupported(self) -> list[tuple[Op, str, tuple[str, ...]]]:
        """Ops without a rule that keep channels from being removed, why, and the layers that compute these."""
        blocked = [f for f in self.labels.frozen if f.unsupported and f.op is not None]
        if not blocked:
            return []
        component = self.labels.components(all_rules=True)
        found = []
        for freeze in blocked:
            touched = torch.zeros(self.labels.count, dtype=torch.bool)
            touched[component[freeze.ids]] = True
            touched[FIXED] = False
            layers = [
                name.rpartition(".")[0]
                for (name, dim), first in self.labels.first.items()
                if self._sources[first]
                and touched[component[first : first + self.trace.parameters[name].shape[dim]]].any()
            ]
            if layers:
                assert freeze.op is not None
                found.append((freeze.op, freeze.reason, tuple(dict.fromkeys(layers))))
        return found

    def frozen(self) -> dict[str, tuple[int, str]]:
        """Layers that compute channels of which some must stay → how many, and why; outputs of the network are none."""
        stay = self.component == FIXED
        component = self.labels.components(free=True)
        reasons: dict[int, str] = {}
        for freeze in self.labels.frozen:
            where = f" in module '{freeze.op.module}'" if freeze.op is not None and freeze.op.module else ""
            for root in component[freeze.ids].unique().tolist():
                reasons.setdefault(root, freeze.reason + ("" if "module '" in freeze.reason else where))
        found: dict[str, tuple[int, str]] = {}
        for name, dim in self._places.touched(self._sources & stay):
            first = self.labels.first[name, dim]
            ids = torch.arange(first, first + self.trace.parameters[name].shape[dim])
            ids = ids[self._sources[ids] & stay[ids]]
            why = [reasons.get(root, _FIXED_SIZE) for root in component[ids].unique().tolist()]
            why = [reason for reason in why if reason != OUTPUT]
            layer = name.rpartition(".")[0]
            if why and layer not in found:
                found[layer] = (len(ids), why[0])
        return found


def analyse(model: nn.Module, example: Any) -> Graph:
    """Trace `model` on `example` and find its channel groups."""
    trace = record(model, example)
    unread = trace.unread()
    if unread:
        training = Trace(parameters=dict(trace.parameters))
        # a forward that wants more than the example in training (targets) cannot be followed there
        with contextlib.suppress(OperationError):
            record_training(model, example, training)
            trace.training = training if training.unread() < unread else None
    return Graph(trace)
