"""`pintsize.prune`: choose channels, prove the cut on the example, remove them physically."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError, OperationError, UnsupportedOp, unknown
from ...graph import ChannelGroup, Graph, analyse
from ...graph.check import Mismatch
from ...graph.groups import Removed, union
from ...graph.probe import blame
from ...graph.surgery import follow
from ...graph.trial import attempt
from ...storage import record as _record
from ...storage.entry import changes_network
from ..patterns import matches
from . import constants, costs, reach, selection
from .costs import Cost
from .importance import Importance
from .plan import PruneStep, PruningPlan
from .statistics import Statistics

_TARGETS = ("params", "macs", "bytes", "latency")


@dataclass(frozen=True)
class Request:
    """What `prune` was asked for."""

    ratio: float | None
    """Fraction of the prunable channels to remove."""
    target: tuple[str, float] | None
    """A cost and the fraction of it to keep."""
    importance: Importance
    scope: str
    round_to: int | str
    min_channels: int
    ignore: tuple[str, ...]
    ratios: Mapping[str, float]
    fold_constants: bool
    gone: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """(parameter, dimension) → what earlier rounds removed of it; the ratios speak of the network before them."""
    start: tuple[float, float] | None = None
    """Prunable channels before the first round, and how many of them went since."""
    strict: bool = True
    """Whether a target that cannot be met is an error; in later rounds, which have cut already, it is a note."""


@changes_network
def prune(
    model: nn.Module,
    example: Any,
    *,
    ratio: float | None = None,
    params: float | None = None,
    macs: float | None = None,
    bytes: float | None = None,
    latency: float | None = None,
    latency_table: Cost | None = None,
    importance: str | Importance = "l2",
    scope: str = "global",
    round_to: int | str = 1,
    min_channels: int = 1,
    ignore: Sequence[str] | str = (),
    ratios: Mapping[str, float] | None = None,
    data: Any = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    task: Any = None,
    fold_constants: bool = True,
    steps: int = 1,
    between: Callable[[nn.Module, int], object] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    seed: int = 0,
) -> PruningPlan:
    """Remove channels from `model` physically, in place, all or nothing.

    The smaller network is run on `example` and compared with the original whose removed channels
    are zeroed, before anything is kept. The output layer keeps its size.

    Args:
        model: any module.
        example: an input batch, or a tuple of inputs.
        ratio: fraction of the prunable channels to remove, in [0, 1). 0 changes nothing.
        params: instead of `ratio`, the fraction of the parameters to keep, reached within 1 %.
        macs: likewise, of the multiply–accumulate operations.
        bytes: likewise, of the bytes of the parameters.
        latency: likewise, of the latency that `latency_table` predicts.
        latency_table: a function from the shapes of all parameters to milliseconds.
        importance: a criterion's name, or an `Importance` with reduction and normalisation.
        scope: `global` (one ranking), `local` (the same ratio in each group), or `isomorphic`
            (one ranking per kind of group).
        round_to: keep channels in multiples of this; `auto` takes what the runtimes' kernels like.
        min_channels: least channels of a layer.
        ignore: patterns of layer paths (shell style) that keep all their channels.
        ratios: pattern of layer paths → ratio, for layers that differ from `ratio`; local scope.
        data: batches of (images, labels), for criteria that need gradients or activations.
        loss: of outputs and targets; by default the task's.
        task: see `pintsize.train`.
        fold_constants: add what removed channels contributed as constants (through the bias of
            their batch norm) to the layers that read them.
        steps: prune in this many rounds of equal parts.
        between: called as `between(model, step)` after each round, e.g. to retrain.
        optimizer: its parameters and state follow the cut.
        seed: of random criteria and estimates.

    Returns:
        The plan, in terms of the network as it was; appended to the model's record.

    Raises:
        InputError: the request makes no sense or cannot be met; it says by how much.
        UnsupportedOp: an op without a rule touches channels that are not in `ignore`.
        OperationError: the forward fails on `example`.
    """
    request = _request(ratio, {"params": params, "macs": macs, "bytes": bytes, "latency": latency}, importance, scope,
                       round_to, min_channels, ignore, ratios, fold_constants)  # fmt: skip
    if request.target and request.target[0] == "latency" and latency_table is None:
        raise InputError(f"latency={latency}", "no latency table was given", "pass latency_table=")
    if not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps={steps!r}", "it is not a number of rounds", "pass steps=1 or more")
    _record.check_order(model, PruneStep)
    if steps > 1:  # what cannot be met as a whole must show before the first round
        graph = analyse(model, example)
        groups = _prunable(model, graph, request)
        _choose(model, graph, groups, request, Statistics(model, data, seed, loss, task),
                _prices(graph, latency_table))  # fmt: skip
        request = dataclasses.replace(request, start=(float(costs.total_channels(groups)), 0.0))
    whole: PruningPlan | None = None
    for step in range(steps):
        part = dataclasses.replace(_part(request, step, steps, whole), strict=step == 0)
        plan = _once(
            model, example, part, Statistics(model, data, seed, loss, task), latency_table, optimizer
        )
        whole = plan if whole is None else whole.then(plan)
        if request.start is not None:
            went = plan.before["channels"] - plan.after["channels"]
            request = dataclasses.replace(request, start=(request.start[0], request.start[1] + went))
        if between is not None:
            between(model, step)
    assert whole is not None
    return whole


def _request(
    ratio: float | None, targets: dict[str, float | None], importance: str | Importance, scope: str,
    round_to: int | str, min_channels: int, ignore: Sequence[str] | str, ratios: Mapping[str, float] | None,
    fold_constants: bool,
) -> Request:  # fmt: skip
    given = {name: value for name, value in targets.items() if value is not None}
    if len(given) + (ratio is not None) != 1 and not (ratios and not given and ratio is None):
        names = [*(["ratio"] if ratio is not None else []), *given]
        raise InputError(
            "prune",
            f"{' and '.join(names)} were given" if names else "no amount was given",
            f"give exactly one of ratio, {', '.join(_TARGETS)}",
        )
    for name, value in {"ratio": ratio, **{f"ratios[{k!r}]": v for k, v in (ratios or {}).items()}}.items():
        if value is not None and not (isinstance(value, int | float) and 0 <= value < 1):
            raise InputError(
                f"{name}={value!r}", "a ratio lies in [0, 1)", "0.5 removes half of the channels"
            )
    for name, value in given.items():
        if not (isinstance(value, int | float) and 0 < value <= 1):
            raise InputError(f"{name}={value!r}", "the fraction to keep lies in (0, 1]", "0.5 keeps half")
    if scope not in selection.SCOPES:
        raise unknown("scope", scope, selection.SCOPES)
    if ratios and scope != "local":
        raise InputError(
            "ratios",
            f"they fix ratios per layer, scope={scope!r} ranks layers against each other",
            "use scope='local'",
        )
    if not (round_to == "auto" or (isinstance(round_to, int) and round_to >= 1)):
        raise InputError(
            f"round_to={round_to!r}", "it is neither a positive number nor 'auto'", "pass e.g. round_to=8"
        )
    if not (isinstance(min_channels, int) and min_channels >= 1):
        raise InputError(
            f"min_channels={min_channels!r}", "a layer keeps at least one channel", "pass 1 or more"
        )
    chosen = importance if isinstance(importance, Importance) else Importance(importance)
    patterns = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    target = next(iter(given.items()), None)
    amount = 0.0 if ratio is None and target is None else ratio
    return Request(
        amount, target, chosen, scope, round_to, min_channels, patterns, dict(ratios or {}), fold_constants
    )


def _part(request: Request, step: int, steps: int, whole: PruningPlan | None) -> Request:
    """The request of one round: equal parts of the original, so that what rounding left over is made up for."""
    share = (step + 1) / steps
    fields: dict[str, Any] = {"ratios": {pattern: value * share for pattern, value in request.ratios.items()}}
    if request.target:
        name, keep = request.target
        reached = whole.after[name] / whole.before[name] if whole is not None else 1.0
        fields["target"] = (name, min(1.0, (1 - (1 - keep) * share) / reached))
    if request.ratio is not None:
        fields["ratio"] = request.ratio * share
    if whole is not None:
        fields["gone"] = {
            (name, dim): len(indices) for name, dims in whole.removed.items() for dim, indices in dims.items()
        }
    return dataclasses.replace(request, **fields)


def _once(
    model: nn.Module, example: Any, request: Request, statistics: Statistics, table: Cost | None,
    optimizer: torch.optim.Optimizer | None,
) -> PruningPlan:  # fmt: skip
    """One round: choose, prove, cut."""
    graph = analyse(model, example)
    asked = request.ratio != 0 or any(request.ratios.values())
    while True:
        groups = _prunable(model, graph, request)
        priced = _prices(graph, table)
        removed, note = _choose(model, graph, groups, request, statistics, priced)
        folding = (
            constants.find(model, example, graph, removed) if request.fold_constants and removed else None
        )
        before = dict(model.named_parameters())
        try:
            undo, error = attempt(model, example, graph, removed) if removed else (None, 0.0)
        except Mismatch as mismatch:
            blame(graph, mismatch, removed)
            continue
        break
    full = {name: tuple(value.shape) for name, value in graph.trace.parameters.items()}
    now = {name: tuple(tensor.shape) for name, tensor in model.state_dict(keep_vars=True).items()}
    kept = {name: now.get(name, shape) for name, shape in full.items()}
    sizes = [{name: cost(s) for name, cost in priced.items()} for s in (full, kept)]
    all_groups = graph.groups
    for k, size in enumerate(sizes):
        size["channels"] = (
            float(sum(g.size * g.channels for g in all_groups))
            if k == 0
            else _channels_left(all_groups, removed)
        )
    attributes = undo.attributes if undo is not None else {}
    try:
        biases, errors = folding.apply(model) if folding else ((), {})
    except OperationError:
        assert undo is not None
        undo()
        raise
    notes = tuple(text for text in (note, reach.frozen_text(graph, request.ignore)) if text) if asked else ()
    plan = PruningPlan(removed, attributes, biases, sizes[0], sizes[1], error, errors, notes)
    if removed:
        _record.append(model, plan.step())
        if optimizer is not None:
            follow(optimizer, before, model, removed)
    return plan


def _prices(graph: Graph, table: Cost | None) -> dict[str, Cost]:
    priced = {
        "params": costs.parameters(graph.trace),
        "macs": costs.macs(graph.trace),
        "bytes": costs.weight_bytes(graph.trace),
    }
    return priced if table is None else {**priced, "latency": table}


def _channels_left(groups: Sequence[ChannelGroup], removed: Removed) -> float:
    left = 0
    for group in groups:
        first = next(m for m in group.members if m.produces)
        gone = set(removed.get(first.parameter, {}).get(first.dim, ()))
        left += sum(i not in gone for i in first.indices.reshape(-1).tolist())
    return float(left)


def _prunable(model: nn.Module, graph: Graph, request: Request) -> list[ChannelGroup]:
    """The groups that may be pruned, after `ignore`."""
    paths = [path for path, _ in model.named_modules()]
    for pattern in (*request.ignore, *request.ratios):
        if not fnmatch.filter(paths, pattern):
            raise InputError(
                f"pattern {pattern!r}",
                "it matches no layer",
                "see pintsize.channel_groups(model, example) for names",
            )
    for op, reason, layers in graph.unsupported():
        ignored = [layer for layer in layers if any(matches(layer, p) for p in request.ignore)]
        if len(ignored) == len(layers) or any(matches(op.module, p) for p in request.ignore):
            continue
        raise UnsupportedOp(
            f"module '{op.module}'",
            reason,
            f"write @pintsize.graph.rule(torch.ops.{op.func.overloadpacket}) that carries the channels on, "
            f"or pass ignore=('{op.module}',) to keep the channels it touches",
        )
    return [
        g for g in graph.groups if not any(matches(layer, p) for layer in g.layers for p in request.ignore)
    ]


def _choose(
    model: nn.Module, graph: Graph, groups: list[ChannelGroup], request: Request, statistics: Statistics,
    priced: Mapping[str, Cost],
) -> tuple[Removed, str]:  # fmt: skip
    """What goes, and a note about what was not reached."""
    if request.ratio == 0 and not any(request.ratios.values()):
        return {}, ""
    if not groups and not request.strict:
        return {}, "nothing is left to prune"
    if not groups:
        raise InputError(
            "prune",
            ": ".join(
                filter(
                    None,
                    ("no channel of the network may be removed", reach.frozen_text(graph, request.ignore)),
                )
            ),
            reach.remedy(model),
        )
    scores = request.importance.scores(groups, statistics)
    local = {i: _ratio_for(group, request.ratios) for i, group in enumerate(groups)}
    base = request.ratio or 1.0
    weights = [1.0 if local[i] is None else float(local[i] or 0.0) / base for i in range(len(groups))]
    if request.ratios and request.ratio == 0:
        weights = [0.0 if local[i] is None else float(local[i] or 0.0) for i in range(len(groups))]
    candidates = selection.Candidates(
        groups, scores, request.scope, selection.pools(model, groups, request.scope),
        [kept_multiple(group, request.round_to) for group in groups], request.min_channels, weights,
        [_left(graph, group, request.gone) for group in groups], request.start,
    )  # fmt: skip
    note = ""
    if request.target is not None:
        name, keep = request.target
        cost = priced[name]
        removed, note = selection.solve(
            candidates, lambda n: cost(costs.kept_shapes(graph, groups, n)), keep, name, strict=request.strict
        )
    else:
        level = 1.0 if request.ratios and request.ratio == 0 else float(request.ratio or 0)
        removed = selection.counts(candidates, level)
        note = selection.missed(candidates, level, removed)
    units = selection.choose(candidates, removed)
    return union([g.removed(u) for g, u in zip(groups, units, strict=True) if len(u)]), note


def _left(graph: Graph, group: ChannelGroup, gone: Mapping[tuple[str, int], int]) -> float:
    """The share of a group's channels that earlier rounds left."""
    first = next(m for m in group.members if m.produces)
    now = graph.trace.parameters[first.parameter].shape[first.dim]
    return now / (now + gone.get((first.parameter, first.dim), 0))


def _ratio_for(group: ChannelGroup, ratios: Mapping[str, float]) -> float | None:
    return next(
        (r for pattern, r in ratios.items() if any(matches(layer, pattern) for layer in group.layers)), None
    )


def kept_multiple(group: ChannelGroup, round_to: int | str) -> int:
    """`auto`: 16 channels fill a vector register of AVX-512 and a tile of the integer kernels, 8 one of AVX2."""
    if round_to != "auto":
        return int(round_to)
    total = group.size * group.channels
    return 16 if total >= 64 else 8 if total >= 16 else 1
