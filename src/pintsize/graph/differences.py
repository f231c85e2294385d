"""Where a cut network parts from the zeroed original: the op to blame when a pruning does not work."""

from __future__ import annotations

import contextlib
from collections.abc import Container
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import OperationError
from .check import KeptNorms, Mismatch, distance, tolerance, zeroed
from .groups import Graph, Removed
from .surgery import Undo
from .trace import CallCounter, CallKey, DispatchMode, Op, Trace, _Functions, record


class Sizes(DispatchMode):
    """Notes the shapes that each call of the user's code gives, and where a forward that fails has come to."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.counter = model, CallCounter()
        self.functions = _Functions(self.counter)
        self.shapes: dict[CallKey, list[tuple[int, ...]]] = {}
        self._entered = contextlib.ExitStack()

    def __enter__(self) -> Any:
        for name, module in self.model.named_modules():
            before = module.register_forward_pre_hook(
                lambda _m, _a, name=name: self.counter.modules.append(name)
            )
            after = module.register_forward_hook(self._leave)
            self._entered.callback(before.remove)
            self._entered.callback(after.remove)
        self._entered.enter_context(self.functions)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._entered.close()

    def _leave(self, *_: Any) -> None:
        self.counter.modules.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        call = self.functions.current
        if call is not None:
            leaves = [result] if isinstance(result, Tensor) else tree_leaves(result)
            self.shapes[call] = [tuple(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor)]
        return result


def first_misfit(graph: Graph, gone: Tensor, sizes: Sizes, error: Exception) -> Mismatch:
    """The call of the user's code where the sizes part from those that the labels tell, if the cut network fails."""
    where = sizes.counter.modules[-1] or type(sizes.model).__name__
    lines = str(error).splitlines() or [""]
    reason = f"module '{where}' raised {type(error).__name__}: {lines[0]}"
    want = {op.call: op for op in graph.trace.ops if op.call is not None}
    live, reached = graph.live, _reached(list(want), sizes.shapes)
    for k, (call, op) in enumerate(want.items()):
        if call not in sizes.shapes:
            if k < reached:
                continue
            return Mismatch(op, reason)
        if op in live and any(
            graph.kept_shape(value, gone) != shape
            for value, shape in zip(op.outputs, sizes.shapes[call], strict=False)
        ):
            return Mismatch(op, reason)
    return Mismatch(None, reason)


def first_difference(
    model: nn.Module, example: Any, graph: Graph, removed: Removed, gone: Tensor, undo: Undo
) -> Mismatch:
    """Run the cut network and the zeroed one, and name the call of the user's code where they part.

    Calls are compared, not ops: an op such as a copy may come or go with the sizes.
    """
    cut_trace, cut_results, reason = Trace(), list[list[Tensor]](), ""
    try:
        record(model, example, trace=cut_trace, results=cut_results)
    except OperationError as error:
        reason = error.cause.splitlines()[0]
    undo()
    full_results: list[list[Tensor]] = []
    with zeroed(model, removed), KeptNorms(graph, gone):
        record(model, example, results=full_results)
    have = _last_of_call(cut_trace.ops, cut_results)
    want = _last_of_call(graph.trace.ops, full_results)
    live = graph.live
    reached = _reached(list(want), have)
    for k, (call, (op, full)) in enumerate(want.items()):
        if call not in have:
            if k < reached:  # a copy that the other sizes make needless
                continue
            return Mismatch(op, reason or "its forward takes another way")
        small = have[call][1]
        for value, whole, part in zip(op.outputs, full, small, strict=False):
            expected = graph.kept_shape(value, gone)
            if op in live and tuple(part.shape) != expected:
                return Mismatch(op, reason or f"{op.func} gives shape {tuple(part.shape)}, not {expected}")
            if op in live and whole.numel() and not _equal(graph, value, gone, whole, part):
                return Mismatch(op, f"{op.func} gives other numbers")
    return Mismatch(None, reason or "its outputs differ")


def _reached(order: list[CallKey], have: Container[CallKey]) -> int:
    return max((k for k, call in enumerate(order) if call in have), default=-1)


def _last_of_call(ops: list[Op], results: list[list[Tensor]]) -> dict[CallKey, tuple[Op, list[Tensor]]]:
    """For each call of the user's code its last op, with what that gave."""
    return {op.call: (op, given) for op, given in zip(ops, results, strict=False) if op.call is not None}


def _equal(graph: Graph, value: Any, gone: Tensor, whole: Tensor, part: Tensor) -> bool:
    for dim, index in enumerate(graph.kept_index(value, gone)):
        whole = whole if index is None else whole.index_select(dim, index.to(whole.device))
    return distance([whole], [part]) <= tolerance([whole])
