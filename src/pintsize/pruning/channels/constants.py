"""What removed channels still contributed as constants, folded into the layers that read them.

A channel whose filter is gone still emits its batch-norm bias (its norm sees the running mean,
so β comes out, through the activation). The next layer multiplies that constant with its weights:
a constant per output channel, which belongs in its bias, or in the running mean of the norm behind
it. That is exact unless zero padding (or a gate) makes the contribution vary over the image; then
its mean is folded, and the largest difference left is reported.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import OperationError
from ...graph import Graph, Op, Removed
from ...graph.check import run, zeroed
from ...graph.ops import aten
from ...graph.trace import Alongside
from .costs import weight_names
from .plan import add_bias

_EXACT = 1e-5
"""Below this share of the output's standard deviation a difference is rounding."""
_NORMS = (aten.native_batch_norm, aten._native_batch_norm_legit_no_training, aten._native_batch_norm_legit)


@dataclass(frozen=True)
class Folding:
    """Constants per layer that reads removed channels."""

    shifts: dict[str, Tensor]
    """Layer → what to add to each of the output channels that it keeps."""
    norms: dict[str, str]
    """Layer → running mean of the batch norm behind it, where it has one."""
    errors: dict[str, float]
    """Layer → largest difference that is left, in standard deviations of its output."""

    def apply(self, model: nn.Module) -> tuple[tuple[str, ...], dict[str, float]]:
        """Add the constants to the cut network; return the layers that got a bias, and the errors.

        Raises:
            OperationError: a constant is not finite; nothing has been added.
        """
        added = []
        for path, shift in self.shifts.items():
            if not bool(torch.isfinite(shift).all()):
                raise OperationError(
                    f"layer '{path}'",
                    "what it reads from the removed channels, their filters zeroed, is not finite",
                    "pass fold_constants=False, or ignore= for the layers it reads",
                )
        with torch.no_grad():
            for path, shift in self.shifts.items():
                layer = model.get_submodule(path)
                if path in self.norms:
                    model.get_buffer(self.norms[path]).sub_(shift)
                    continue
                if getattr(layer, "bias", None) is None:
                    added.append(path)
                add_bias(layer).add_(shift)
        return tuple(added), self.errors


def find(model: nn.Module, example: Any, graph: Graph, removed: Removed) -> Folding:
    """The constants that `removed` leaves, measured on `example`; `model` is unchanged."""
    gone = graph.gone(removed)
    for layer in graph.labels.across.values():  # what a norm across channels loses changes it anyway
        normed = torch.zeros_like(gone)
        normed[graph.component[layer]] = True
        gone &= ~normed[graph.component]
    produced = {
        (m.parameter, m.dim)
        for group in graph.groups
        for m in group.members
        if m.produces or m.parameter.rpartition(".")[2] in {"bias", "running_mean"}
    }
    norms = _norm_vectors(graph) | set(graph.labels.directions)
    silent: Removed = {}
    for name, dims in removed.items():
        if name in norms:
            continue
        first = {dim: graph.labels.first[name, dim] for dim in dims if (name, dim) in produced}
        chosen = {dim: [i for i in dims[dim] if gone[start + i]] for dim, start in first.items()}
        if any(chosen.values()):
            silent[name] = {dim: indices for dim, indices in chosen.items() if indices}
    collect = _Collect(model, graph, gone, graph.gone(removed))
    with zeroed(model, silent):
        run(model, example, collect)
    return Folding(collect.shifts, collect.norms, collect.errors)


def without_place(model: nn.Module, graph: Graph) -> list[str]:
    """The layers of `model` that have neither a bias nor a norm behind them that could take a constant."""
    nothing = graph.gone({})
    found = _Collect(model, graph, nothing, nothing)
    return [
        path
        for path in dict.fromkeys(found.readers.values())
        if path not in found.norms and getattr(model.get_submodule(path), "bias", None) is None
    ]


def _norm_vectors(graph: Graph) -> set[str]:
    """Scales, biases and variances of batch norms: they make the constant, so they stay."""
    return {
        value.name
        for op in graph.trace.ops
        if op.func.overloadpacket in _NORMS
        for k, value in enumerate(op.args[1:5])
        if value is not None and value.name is not None and k != 2
    }


class _Collect(Alongside):
    """Measures what the removed channels contribute to each layer that reads them."""

    def __init__(self, model: nn.Module, graph: Graph, gone: Tensor, gone_all: Tensor) -> None:
        super().__init__(graph.trace)
        self.graph = graph
        self.gone = gone
        self.gone_all = gone_all
        self.shifts: dict[str, Tensor] = {}
        self.norms: dict[str, str] = {}
        self.errors: dict[str, float] = {}
        self.uses: Counter[str] = Counter()
        self.readers = self._find_readers(model)

    def _find_readers(self, model: nn.Module) -> dict[Op, str]:
        names = weight_names(self.graph.trace)
        consumers = self.graph.trace.consumers()
        products = (aten.convolution, aten.addmm, aten.mm)
        found: dict[Op, str] = {}
        for op in self.graph.trace.ops:
            if op.func.overloadpacket not in products:
                continue
            weight = op.args[1] if op.func.overloadpacket is aten.convolution else op.args[-1]
            name = names.get(weight, "")
            path = name.rpartition(".")[0]
            layer = model.get_submodule(path)
            if name != f"{path}.weight" or not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
                continue
            self.uses[path] += 1
            found[op] = path
            behind = consumers.get(op.outputs[0], [])
            if len(behind) == 1 and behind[0].func.overloadpacket in _NORMS and behind[0].args[3] is not None:
                self.norms[path] = behind[0].args[3].name
        return found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        op = self.op(func)
        self._held = result = func(*args, **(kwargs or {}))  # as the trace holds it: same ops
        if op in self.readers:
            self._measure(op, func, args, result)
        return result

    def _measure(self, op: Op, func: Any, args: tuple[Any, ...], result: Tensor) -> None:
        convolution = func.overloadpacket is aten.convolution
        at = 0 if convolution else len(args) - 2
        value, x = op.args[at], args[at]
        mask = torch.zeros((1,) * x.dim(), dtype=torch.bool)
        for layer in self.graph.labels.of(value):
            mask = mask | self.gone[layer]
        part = x * mask.to(x.device)
        path = self.readers[op]
        if not bool(part.any()):
            return
        added = func(part, args[1], None, *args[3:]) if convolution else part @ args[-1]
        spread = float(result.std()) or 1.0
        mean = added.mean([d for d in range(added.dim()) if d != 1])
        if self.uses[path] > 1:  # one bias cannot serve two inputs
            self.errors[path] = max(self.errors.get(path, 0.0), float(added.abs().max()) / spread)
            return
        rest = added - mean.reshape([-1 if d == 1 else 1 for d in range(added.dim())])
        error = float(rest.abs().max()) / spread
        keep = self.graph.kept_index(op.outputs[0], self.gone_all)[1]
        self.shifts[path] = mean if keep is None else mean[keep.to(mean.device)]
        self.errors[path] = error if error > _EXACT else 0.0
