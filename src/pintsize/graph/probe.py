"""What the user's `forward` allows: group sizes that are written into the code are found by trying.

Labels cannot tell `x.view(n, 12, 64)` from `x.view(n, self.heads, -1)`. So a part of every group
is removed by way of trial, each by another share, and taken back. Where the network then fails, or
computes something else than with zeroed channels, the channels concerned are frozen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .check import Mismatch
from .groups import Graph, Removed, union
from .labels import FIXED, blocks, compact, dims_of
from .ops import aten
from .trace import Op, Value
from .trial import attempt


def settle(model: nn.Module, example: Any, graph: Graph) -> None:
    """Freeze in `graph` what the forward of `model` does not allow to change; `model` is as before."""
    while _ambiguous(model, graph):
        removed = _trial(graph)
        if not removed:
            return
        try:
            undo, _ = attempt(model, example, graph, removed)
        except Mismatch as mismatch:
            blame(graph, mismatch, removed)
            continue
        undo()
        return


def _ambiguous(model: nn.Module, graph: Graph) -> bool:
    """Whether any op that is left may hold sizes of the user's code."""
    modules = dict(model.named_modules())
    fixed = graph.component == 0
    for op in graph.labels.splits:
        if any(not fixed[layer].all() for value in op.inputs for layer in graph.labels.of(value)):
            return True
    return any(
        not fixed[layer].all() and not type(modules[op.module]).__module__.startswith("torch.nn")
        for op, layer in graph.labels.across.items()
    )


def _trial(graph: Graph) -> Removed:
    """A different share of each group, so that two sizes do not agree by chance."""
    parts = []
    for number, group in enumerate(graph.groups):
        if group.size > 1:
            share = 0.25 + 0.5 * ((number * 0.618033988749895) % 1.0)
            left = min(max(round(share * group.size), 2), group.size - 1)
            parts.append(group.removed(range(group.size - _prime(left))))
    return union(parts)


def _prime(number: int) -> int:
    """The largest prime up to `number` (1 for 1): sizes that no quotient in the user's code meets by chance."""
    return next((p for p in range(number, 1, -1) if all(p % k for k in range(2, int(p**0.5) + 1))), 1)


def blame(graph: Graph, mismatch: Mismatch, removed: Removed) -> None:
    """Freeze the channels that a failed trial points at: of the op, else of its module, else of its parents."""
    op = mismatch.op
    call = [
        o
        for o in graph.trace.all_ops
        if o is op or (op is not None and op.call is not None and o.call == op.call)
    ]
    gone = graph.gone(removed)
    same_kind = [o for o in graph.trace.all_ops if op is not None and _kind(o) == _kind(op)]
    shrank = any(
        gone[layer].any() for o in call for v in (*o.inputs, *o.outputs) for layer in graph.labels.of(v)
    )
    if shrank and _turn(graph, {value for o in (*call, *same_kind) for value in o.outputs}):
        return
    for candidates in (call, same_kind, *_wider(graph, op)):
        layers = _removable(graph, candidates, gone)
        if layers:
            everywhere = [*candidates, *same_kind] if candidates is call else candidates
            where = f"module '{op.module}'" if op is not None else "the network"
            layers = _removable(graph, everywhere, gone)
            graph.labels.freeze(layers, f"{where} does not allow its size to change ({mismatch.reason})", op)
            graph.settle()
            return
    assert gone.any(), f"nothing to blame for: {mismatch.reason}"
    graph.labels.freeze([gone.nonzero()], f"the network does not allow it to change ({mismatch.reason})", op)
    graph.settle()


def _turn(graph: Graph, values: set[Value]) -> bool:
    """Keep the other dimension free in the grids of `values`, and of all that show the same channels."""
    labels = graph.labels
    shown = torch.zeros(labels.count, dtype=torch.bool)
    for value, grid in labels.grids:
        if value in values and value not in labels.turned:
            shown[grid] = True
    turned = {value for value, grid in labels.grids if shown[grid].any()}
    labels.turned |= turned
    if turned:
        graph.settle()
    return bool(turned)


def _kind(op: Op) -> tuple[Any, ...]:
    """Calls of the same line of code in different instances of a module."""
    call = op.call
    tail = op.module.rpartition(".")[2]
    return (op.func, call.function if call else "", call.occurrence if call else 0, tail)


def _wider(graph: Graph, op: Op | None) -> list[list[Op]]:
    ops = graph.trace.all_ops
    if op is None:
        return [ops]
    path = op.module
    lines: dict[str, dict[tuple[str, int], None]] = {}  # of each module, the calls that it makes itself
    for o in ops:
        if o.call is not None:
            lines.setdefault(o.module, {})[o.call.function, o.call.occurrence] = None
    name, code = path.rpartition(".")[2], lines.get(path)
    alike = {path} | {other for other in lines if lines[other] == code and other.rpartition(".")[2] == name}
    within = tuple(f"{other}." for other in alike if other)
    scopes = [
        [o for o in ops if o.module in alike],  # the module without its submodules, and others of its code
        [o for o in ops if path and (o.module in alike or o.module.startswith(within))],
    ]
    while path := path.rpartition(".")[0]:
        scopes.append([o for o in ops if o.module == path or o.module.startswith(path + ".")])
    return [*scopes, ops]


def _removable(graph: Graph, ops: list[Op], gone: Tensor) -> list[Tensor]:
    """Layers of what `ops` read or give along dimensions that shrank in the trial, in this or another run of that code.

    Also those of which nothing was removed this time: once the others stay, their turn would come.
    """
    shrank: dict[tuple[Any, ...], set[int]] = {}
    places: dict[tuple[Any, ...], dict[Value, None]] = {}
    for op in ops:
        for role, value in enumerate((*op.inputs, *op.outputs)):
            if value in graph.labels.weights or not graph.labels.of(value):
                continue
            key = (_kind(op), role)
            places.setdefault(key, {})[value] = None
            dims = {d for d, kept in enumerate(graph.kept_index(value, gone)) if kept is not None}
            if dims and role == 0 and op.func.overloadpacket in (aten.view, aten._unsafe_view):
                for olds, news in blocks(value.shape, op.outputs[0].shape):
                    if len(news) == 1 and dims.intersection(olds):  # together they are one size in the code
                        dims.update(olds)
            shrank.setdefault(key, set()).update(dims)
    return [
        compact(layer)
        for key, values in places.items()
        for value in values
        for layer in graph.labels.of(value)
        if shrank[key].intersection(dims_of(layer)) and not (graph.component[layer] == FIXED).all()
    ]
