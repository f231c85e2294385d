"""What a pruned network is compared with: the original with zeroed channels, whose outputs are the same.

Zeroed means: the removed slices of every parameter are zero. A norm that averages over removed
channels is taken over the kept ones, which is what the smaller network does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from .groups import Graph, Removed
from .inputs import as_args
from .ops import aten
from .reduce_ops import STATISTICS
from .surgery import _tensor
from .trace import Alongside, Op, quiet

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
    modules = dict(model.named_modules(remove_duplicate=False))
    saved: list[tuple[Tensor, Tensor]] = []
    try:
        for name, dims in removed.items():
            tensor = _tensor(modules, name)
            saved.append((tensor, tensor.data))
            values = tensor.data.clone()
            for dim, indices in dims.items():
                values.index_fill_(dim, torch.tensor(indices, dtype=torch.long, device=values.device), 0)
            tensor.data = values
        yield
    finally:
        for tensor, values in saved:
            tensor.data = values


def run(model: nn.Module, example: Any, mode: Any = None) -> list[Tensor]:
    """The outputs of `model` in eval mode, its mode unchanged afterwards."""
    args = as_args(example, model)
    with quiet(model), mode or contextlib.nullcontext():
        outputs = model(*args)
    return [leaf for leaf in tree_flatten(outputs)[0] if isinstance(leaf, Tensor)]


def reference(model: nn.Module, example: Any, graph: Graph, removed: Removed, gone: Tensor) -> list[Tensor]:
    """The outputs of `model` with the `removed` channels, whose ids are `gone`, zeroed."""
    with zeroed(model, {name: dims for name, dims in removed.items() if name not in graph.labels.directions}):
        across = graph.labels.across
        return run(model, example, KeptNorms(graph, gone) if across else None)


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


class KeptNorms(Alongside):
    """Takes the statistics of layer and group norms over the kept channels."""

    def __init__(self, graph: Graph, gone: Tensor) -> None:
        super().__init__(graph.trace)
        self.graph, self.gone = graph, gone

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        op = self.op(func)
        layer = self.graph.labels.across.get(op)
        # held as the trace holds it, else PyTorch issues no detach behind torch.linspace and its like
        self._held = result = func(*args, **(kwargs or {}))
        if layer is not None:
            keep = (~self.gone[layer]).to(args[0].dtype).to(args[0].device)
            # in place: other strides could make later views take another way than in the trace
            keep = keep.expand(args[0].shape)
            kept = _kept_norm(func, keep, args, kwargs or {})
            if isinstance(result, Tensor):
                result.copy_(kept.reshape(result.shape))
            elif func.overloadpacket in (aten.var_mean, aten.std_mean):
                for each, given in zip(result, (kept, _kept_mean(args[0], keep, args[1])), strict=True):
                    each.copy_(given.reshape(each.shape))
            else:
                result[0].copy_(kept)
                result = (
                    result[0],
                    *(args[0].new_empty(0) for _ in result[1:]),
                )  # mean and deviation: unused
        return result


_BATCH_NORMS = (aten.native_batch_norm, aten._native_batch_norm_legit, aten.batch_norm)


def _kept_mean(x: Tensor, keep: Tensor, dims: Any) -> Tensor:
    average: Tensor = (x * keep).sum(dims, keepdim=True) / keep.sum(dims, keepdim=True)
    return average


def _kept_statistic(func: Any, keep: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """A statistic of a norm that is written out."""
    x, packet, dims = args[0], func.overloadpacket, args[1] if len(args) > 1 else None
    if packet is aten.mean:
        return _kept_mean(x, keep, dims)
    if packet is aten.linalg_vector_norm:
        length: Tensor = func(x * keep, *args[1:], **kwargs)
        return length
    unbiased = args[2] if len(args) > 2 else True
    correction = kwargs.get("correction", 1 if unbiased else 0)
    centred = (x - _kept_mean(x, keep, dims)) * keep
    count = keep.sum(dims, keepdim=True) - (1 if correction is None else correction)
    variance: Tensor = (centred * centred).sum(dims, keepdim=True) / count
    return variance if packet in (aten.var, aten.var_mean) else variance.sqrt()


def _kept_norm(func: Any, keep: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x, packet = args[0], func.overloadpacket
    if packet in STATISTICS:
        return _kept_statistic(func, keep, args, kwargs)
    if packet is aten.native_group_norm:
        weight, bias, groups, eps = args[1], args[2], args[6], args[7]
        shape = (x.shape[0], groups, -1)
        y = _standardise(x.reshape(shape), keep.reshape(shape), [2], eps).reshape(x.shape)
        affine = (1, -1, *[1] * (x.dim() - 2))
        y = y * (1 if weight is None else weight.reshape(affine)) + (
            0 if bias is None else bias.reshape(affine)
        )
    elif packet in _BATCH_NORMS:  # of a weight, [1, O, …]
        dims = [d for d in range(x.dim()) if d != 1]
        affine = (1, -1, *[1] * (x.dim() - 2))
        y = _standardise(x, keep, dims, args[-1] if isinstance(args[-1], float) else args[7])
        weight, bias = args[1], args[2]
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
