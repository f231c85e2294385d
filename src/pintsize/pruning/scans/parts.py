"""The parts that a sensitivity scan prunes one at a time: weight tensors, filters of a layer, channel groups."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...graph import ChannelGroup, Graph, Removed, analyse
from ...graph.check import zeroed
from ...graph.ops import aten
from ...tasks import Task
from ..channels.importance import Importance
from ..channels.statistics import Statistics
from ..patterns import matches
from ..weights.criteria import element_scores
from ..weights.masks import maskable, weight_name
from ..weights.selection import keep_top
from ..weights.sparsity import batches_for

LEVELS = {"weight": "magnitude", "filter": "l1", "group": "l2"}
"""Level → the criterion that it takes by default."""
_NORMS = (aten.native_batch_norm, aten._native_batch_norm_legit_no_training, aten._native_batch_norm_legit)


@dataclass(frozen=True)
class Part:
    """Something that is pruned alone."""

    name: str
    parameters: list[str]
    """Weights that a rule for this part names."""
    layers: list[str]
    """Modules whose parameters change."""
    size: int
    pruned: Callable[[float], contextlib.AbstractContextManager[None]]
    """A context in which the fraction given to it is removed from the network."""


def find_parts(
    model: nn.Module, level: str, importance: str, *, example: Any, data: Any, ignore: Sequence[str] | str, seed: int,
    task: Task,
) -> list[Part]:  # fmt: skip
    """All parts of a level, in the order of the network's parameters.

    Raises:
        InputError: an `ignore` matches nothing, or nothing is left.
    """
    source = None if data is None else batches_for(data, None, 128, seed)
    statistics = Statistics(model, source, seed, task=task)
    if level == "weight":
        parts = _weights(model, importance, statistics)
    else:
        graph = analyse(model, example)
        scores = Importance(importance).scores
        if level == "group":
            parts = [_group(model, group, scores([group], statistics)[0]) for group in graph.groups]
        else:
            parts = _filters(model, graph, importance, statistics)
    for pattern in (ignore,) if isinstance(ignore, str) else ignore:
        kept = [part for part in parts if not any(matches(layer, pattern) for layer in _owners(part))]
        if len(kept) == len(parts):
            raise InputError(
                f"ignore={pattern!r}", "it matches no part of the scan", "see model.named_modules()"
            )
        parts = kept
    if not parts:
        raise InputError(
            f"level {level!r} of {type(model).__name__}", "it has nothing to prune", "ignore less, or choose another level"
        )  # fmt: skip
    return parts


def _owners(part: Part) -> list[str]:
    return [name.rpartition(".")[0] for name in part.parameters]


def _weights(model: nn.Module, importance: str, statistics: Statistics) -> list[Part]:
    layers = maskable(model)
    weights: dict[str, nn.Parameter] = {}
    owners: dict[int, list[str]] = {}
    for path, layer in layers.items():
        weight = layer._parameters["weight"]
        assert weight is not None
        if id(weight) not in owners:
            weights[weight_name(path)] = weight
        owners.setdefault(id(weight), []).append(path)
    scores = element_scores(importance, weights, statistics, "local")
    return [
        Part(name, [name], owners[id(weight)], weight.numel(), _Elements(weight, scores[name]))
        for name, weight in weights.items()
    ]


class _Elements:
    """Zeroes the weights of lowest score, and puts them back."""

    def __init__(self, weight: nn.Parameter, score: Tensor) -> None:
        self._weight, self._score = weight, score.reshape(-1)

    @contextlib.contextmanager
    def __call__(self, ratio: float) -> Iterator[None]:
        saved = self._weight.detach().clone()
        kept = keep_top(self._score, self._score.numel() - int(ratio * self._score.numel() + 0.5))
        self._weight.data.mul_(kept.reshape(saved.shape))
        try:
            yield
        finally:
            self._weight.data.copy_(saved)


class _Units:
    """Zeroes everything that belongs to the units of lowest score."""

    def __init__(self, model: nn.Module, score: Tensor, removed: Callable[[list[int]], Removed]) -> None:
        self._model, self._removed = model, removed
        self._order = torch.argsort(score, stable=True).tolist()

    @contextlib.contextmanager
    def __call__(self, ratio: float) -> Iterator[None]:
        count = min(int(ratio * len(self._order) + 1e-9), len(self._order) - 1)
        chosen = sorted(self._order[:count])
        with zeroed(self._model, self._removed(chosen) if chosen else {}):
            yield


def _group(model: nn.Module, group: ChannelGroup, score: Tensor) -> Part:
    layers = list(dict.fromkeys(member.parameter.rpartition(".")[0] for member in group.members))
    return Part(
        group.name, [weight_name(layer) for layer in group.layers], layers, group.size,
        _Units(model, score, group.removed),
    )  # fmt: skip


def _filters(model: nn.Module, graph: Graph, importance: str, statistics: Statistics) -> list[Part]:
    """Each layer whose filters can be removed, alone: also where others would have to follow."""
    norms = _norms_behind(graph)
    parts = []
    for group in graph.groups:
        for member in group.members:
            path, _, key = member.parameter.rpartition(".")
            if not member.produces or key != "weight":
                continue
            alone = ChannelGroup(path, group.size, (member,))
            score = Importance(importance).scores([alone], statistics)[0]
            names = [f"{path}.bias"] if getattr(model.get_submodule(path), "bias", None) is not None else []
            names += norms.get(path, [])
            rows = member.indices

            def removed(
                units: list[int], rows: Tensor = rows, names: list[str] = names, alone: ChannelGroup = alone
            ) -> Removed:
                gone = sorted(rows[units].reshape(-1).tolist())
                return {**alone.removed(units), **{name: {0: gone} for name in names}}

            layers = [path, *(name.rpartition(".")[0] for name in names)]
            parts.append(
                Part(member.parameter, [member.parameter], layers, group.size, _Units(model, score, removed))
            )
    return parts


def _norms_behind(graph: Graph) -> dict[str, list[str]]:
    """Layer → scale and bias of the batch norm that alone reads its output."""
    consumers = graph.trace.consumers()
    found: dict[str, list[str]] = {}
    for op in graph.trace.ops:
        behind = consumers.get(op.outputs[0], []) if op.outputs else []
        if op.func.overloadpacket is aten.convolution and len(behind) == 1:
            (norm,) = behind
            if norm.func.overloadpacket in _NORMS:
                names = [value.name for value in norm.args[1:3] if value is not None]
                found[op.module] = [name for name in names if name is not None]
    return found
