"""Where a cut network parts from the zeroed original: the op to blame when a pruning does not work."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import OperationError
from .check import KeptNorms, Mismatch, distance, tolerance, zeroed
from .groups import Graph, Removed
from .surgery import Undo
from .trace import CallKey, Op, Trace, record


def first_difference(model: nn.Module, example: Any, graph: Graph, removed: Removed, undo: Undo) -> Mismatch:
    """Run the cut network and the zeroed one, and name the call of the user's code where they part.

    Calls are compared, not ops: an op such as a copy may come or go with the sizes.
    """
    cut_trace, cut_results, reason = Trace(), list[list[Tensor]](), ""
    try:
        record(model, example, trace=cut_trace, results=cut_results)
    except OperationError as error:
        reason = error.cause.splitlines()[0]
    undo()
    gone = graph.gone(removed)
    full_results: list[list[Tensor]] = []
    if reason:  # it is sizes that do not fit, and those are known without another pass
        full_results = [[] for _ in graph.trace.ops]
    else:
        with zeroed(model, removed), KeptNorms(graph, gone):
            record(model, example, results=full_results)
    have = _last_of_call(cut_trace.ops, cut_results)
    want = _last_of_call(graph.trace.ops, full_results)
    live = graph.trace.live()
    order = list(want)
    reached = max((k for k, call in enumerate(order) if call in have), default=-1)
    for k, (call, (op, full)) in enumerate(want.items()):
        if call not in have:
            if k < reached:  # a copy that the other sizes make needless
                continue
            return Mismatch(op, reason or "its forward takes another way")
        if op not in live:
            continue
        small = have[call][1]
        for value, part in zip(op.outputs, small, strict=False):
            expected = graph.kept_shape(value, gone)
            if tuple(part.shape) != expected:
                return Mismatch(op, reason or f"{op.func} gives shape {tuple(part.shape)}, not {expected}")
        for value, whole, part in zip(op.outputs, full, small, strict=False):
            if whole.numel() and not _equal(graph, value, gone, whole, part):
                return Mismatch(op, f"{op.func} gives other numbers")
    return Mismatch(None, reason or "its outputs differ")


def _last_of_call(ops: list[Op], results: list[list[Tensor]]) -> dict[CallKey, tuple[Op, list[Tensor]]]:
    """For each call of the user's code its last op, with what that gave."""
    return {op.call: (op, given) for op, given in zip(ops, results, strict=False) if op.call is not None}


def _equal(graph: Graph, value: Any, gone: Tensor, whole: Tensor, part: Tensor) -> bool:
    for dim, index in enumerate(graph.kept_index(value, gone)):
        whole = whole if index is None else whole.index_select(dim, index.to(whole.device))
    return distance([whole], [part]) <= tolerance([whole])
