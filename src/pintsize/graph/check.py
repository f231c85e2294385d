"""The test of a pruning: the smaller network computes what the original with zeroed channels computes.

Zeroed means: the removed slices of every parameter are zero. A norm that averages over removed
channels is taken over the kept ones, which is what the smaller network does.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from .groups import Graph, Removed
from .ops import aten
from .surgery import Undo, _tensor, cut, new_attributes
from .trace import DispatchMode, Op, as_args, quiet

TOLERANCE = 1e-4
"""Largest difference over the largest output, in single precision."""


class Mismatch(Exception):
    """The smaller network parts from the zeroed one at `op`."""

    def __init__(self, op: Op | None, reason: str) -> None:
        super().__init__(reason)
        self.op, self.reason = op, reason


@contextlib.contextmanager
def zeroed(model: nn.Module, removed: Removed) -> Iterator[None]:
    """The removed slices of all parameters and buffers are zero inside the context."""
    saved: list[tuple[Tensor, Tensor]] = []
    try:
        for name, dims in removed.items():
            tensor = _tensor(model, name).data
            for dim, indices in dims.items():
                view = tensor.movedim(dim, 0)
                index = torch.tensor(indices, device=tensor.device)
                saved.append((view, index))
                saved.append((view[index].clone(), index))
                view[index] = 0
        yield
    finally:
        for (view, index), (values, _) in reversed(list(zip(saved[::2], saved[1::2], strict=True))):
            view[index] = values


def run(model: nn.Module, example: Any, mode: Any = None) -> list[Tensor]:
    """The outputs of `model` in eval mode, its mode unchanged afterwards."""
    with quiet(model), mode or contextlib.nullcontext():
        outputs = model(*as_args(example))
    return [leaf for leaf in tree_flatten(outputs)[0] if isinstance(leaf, Tensor)]


def reference(model: nn.Module, example: Any, graph: Graph, removed: Removed) -> list[Tensor]:
    """The outputs of `model` with the removed channels zeroed."""
    with zeroed(model, removed):
        across = graph.labels.across
        return run(model, example, _KeptNorms(graph, graph.gone(removed)) if across else None)


def attempt(model: nn.Module, example: Any, graph: Graph, removed: Removed) -> tuple[Undo, float]:
    """Cut `removed` out of `model` and compare with the zeroed original.

    Returns:
        How to take the cut back, and the largest difference over the largest output.

    Raises:
        Mismatch: the cut network fails or computes something else; it has been taken back.
    """
    expected = reference(model, example, graph, removed)
    gone = graph.gone(removed)
    attributes = new_attributes(model, graph, gone)
    undo = Undo()
    try:
        cut(model, removed, attributes, undo)
        outputs = run(model, example)
        error = distance(expected, outputs)
        if not error <= tolerance(expected):
            raise Mismatch(None, f"its outputs differ by {error:.2g} of their range")
    except Exception:
        found = _first_difference(model, example, graph, removed, undo)
        undo()
        raise found from None
    return undo, error


def tolerance(outputs: list[Tensor]) -> float:
    """What rounding may account for in the precision of `outputs`."""
    coarse = max((torch.finfo(t.dtype).eps for t in outputs if t.dtype.is_floating_point), default=0.0)
    return max(TOLERANCE, 16 * coarse) if coarse > 1e-6 else TOLERANCE


def distance(expected: list[Tensor], outputs: list[Tensor]) -> float:
    """Largest difference over the largest value, the worst over all outputs."""
    worst = 0.0
    for want, have in zip(expected, outputs, strict=True):
        if want.shape != have.shape:
            return float("inf")
        if want.numel() and want.dtype.is_floating_point:
            scale = float(want.abs().max()) or 1.0
            difference = float((want - have).abs().max()) / scale
            worst = max(worst, difference if difference == difference else float("inf"))  # noqa: PLR0124 (NaN)
    return worst


class _KeptNorms(DispatchMode):
    """Takes the statistics of layer and group norms over the kept channels."""

    def __init__(self, graph: Graph, gone: Tensor) -> None:
        super().__init__()
        self.graph, self.gone = graph, gone
        self._ops = iter(graph.trace.ops)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        op = next(self._ops)
        layer = self.graph.labels.across.get(op)
        result = func(*args, **(kwargs or {}))
        if layer is not None:
            keep = (~self.gone[layer]).to(args[0].dtype).to(args[0].device)
            # in place: other strides could make later views take another way than in the trace
            result[0].copy_(_kept_norm(func, keep.expand(args[0].shape), args))
            result = (result[0], *(args[0].new_empty(0) for _ in result[1:]))  # mean and deviation: unused
        return result


def _kept_norm(func: Any, keep: Tensor, args: tuple[Any, ...]) -> Tensor:
    x, packet = args[0], func.overloadpacket
    if packet is aten.native_group_norm:
        weight, bias, groups, eps = args[1], args[2], args[6], args[7]
        shape = (x.shape[0], groups, -1)
        y = _standardise(x.reshape(shape), keep.reshape(shape), [2], eps).reshape(x.shape)
        affine = (1, -1, *[1] * (x.dim() - 2))
        y = y * (1 if weight is None else weight.reshape(affine)) + (
            0 if bias is None else bias.reshape(affine)
        )
    else:
        dims = list(range(x.dim() - len(args[1]), x.dim()))
        rms = packet is aten._fused_rms_norm
        eps = args[3] if rms else args[4]
        eps = torch.finfo(x.dtype).eps if eps is None else eps
        y = _standardise(x, keep, dims, eps, centre=not rms)
        weight, bias = args[2], None if rms else args[3]
        y = y * (1 if weight is None else weight) + (0 if bias is None else bias)
    return y * keep


def _standardise(x: Tensor, keep: Tensor, dims: list[int], eps: float, *, centre: bool = True) -> Tensor:
    count = keep.sum(dims, keepdim=True)
    if centre:
        x = x - (x * keep).sum(dims, keepdim=True) / count
    return x / ((x * x * keep).sum(dims, keepdim=True) / count + eps).sqrt()


class _Keep(DispatchMode):
    """Keeps what `take` returns for the outputs of each op in turn."""

    def __init__(self, inner: Any = None) -> None:
        super().__init__()
        self.outputs: list[list[Tensor]] = []
        self.inner = inner

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if self.inner is not None:
            result = self.inner.__torch_dispatch__(func, types, args, kwargs)
        else:
            result = func(*args, **(kwargs or {}))
        self.outputs.append([t.clone() for t in tree_flatten(result)[0] if isinstance(t, Tensor)])
        return result


def _first_difference(model: nn.Module, example: Any, graph: Graph, removed: Removed, undo: Undo) -> Mismatch:
    """Run the cut network and the zeroed one op by op, and name the op where they part."""
    gone = graph.gone(removed)
    cut_run, reason = _Keep(), ""
    try:
        run(model, example, cut_run)
    except Exception as error:  # whatever the user's forward raises is what we report
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    undo()
    full_run = _Keep(_KeptNorms(graph, gone))
    with zeroed(model, removed):
        run(model, example, full_run)
    for op, want, have in itertools.zip_longest(graph.trace.ops, full_run.outputs, cut_run.outputs):
        if op is None or have is None:
            return Mismatch(op, reason or "its forward takes another way")
        for value, full, small in zip(op.outputs, want, have, strict=False):
            if tuple(small.shape) != graph.kept_shape(value, gone):
                return Mismatch(
                    op, f"{op.func} gives shape {tuple(small.shape)}, not {graph.kept_shape(value, gone)}"
                )
            for dim, index in enumerate(graph.kept_index(value, gone)):
                full = full if index is None else full.index_select(dim, index.to(full.device))  # noqa: PLW2901
            if _used(op) and full.numel() and not distance([full], [small]) <= tolerance([full]):
                return Mismatch(op, f"{op.func} gives other numbers")
    return Mismatch(None, reason or "its outputs differ")


def _used(op: Op) -> bool:
    """Whether the numbers of an op's output mean something: not for memory that is filled later."""
    return not op.func.overloadpacket.__name__.startswith(("empty", "new_empty"))
