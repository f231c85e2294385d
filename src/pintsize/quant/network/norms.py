"""Batch norms as operations: which follow a layer, what they compute, and a forward without them.

A norm is where `F.batch_norm` runs with statistics that the network keeps, be it in a `BatchNorm2d`, in a module that
runs its activation too, or in a forward of the user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..clustering.clustered import CODES, scalable
from .flow import Edge, Flow, Kind, Node
from .subclasses import once, reduced_by

_NORMS = frozenset({F.batch_norm, torch.batch_norm})
_CARRIED = ("mean", "variance", "weight", "bias")


@dataclass(frozen=True)
class Norm:
    """A batch norm behind a layer."""

    module: str
    """Path of the module whose forward runs it."""
    node: Node
    alone: bool
    """The module does nothing else."""
    mean: str
    """Name of the running mean in the network's state."""
    variance: str
    weight: str | None
    bias: str | None
    eps: float

    @property
    def tensors(self) -> list[str]:
        """The names of all that it reads."""
        return [name for key in _CARRIED if (name := getattr(self, key)) is not None]


def norms_behind(flow: Flow, model: nn.Module) -> dict[str, Norm]:
    """Path of each layer whose batch norm can be folded into it → that norm.

    It alone reads the layer's result, both run once, and nothing else reads its tensors or the layer's weight.
    """
    ran: dict[str, list[Node]] = {}
    for node in (node for node in flow.nodes if any(edge.computed for edge in node.outputs)):
        ran.setdefault(node.op.module, []).append(node)
    modules = dict(model.named_modules())
    weights = [id(own_weight(module)) for module in modules.values() if _is_layer(module)]
    found: dict[str, Norm] = {}
    for node in flow.nodes:
        source = node.args[0] if node.kind is Kind.NORM else None
        if source is None or source.producer is None or len(source.readers) != 1 or source in flow.outputs:
            continue
        layer = source.producer.layer
        if layer is None or sum(other.layer == layer for other in flow.nodes) != 1:
            continue
        module, path = modules[layer], node.op.module
        alone = ran[path] == [node] and not any(other.startswith(f"{path}.") for other in ran)
        norm = _norm(node, path, alone=alone and _owns(modules[path], node))
        # a parametrized weight (a mask, say) is computed anew from its original at each forward
        own = "weight" in module._parameters and scalable(module)
        if norm and own and weights.count(id(own_weight(module))) == 1:
            found[layer] = norm
    return found


def take_out(model: nn.Module, path: str, tensors: list[str]) -> None:
    """Let the forward of the module at `path` pass over the norm that reads `tensors`, which hold nothing from now on."""
    module = model.get_submodule(path)
    for name in tensors:
        parent, _, key = name.rpartition(".")
        owner = model.get_submodule(parent)
        if key in owner._parameters:
            like = owner.get_parameter(key)
            owner._parameters[key] = nn.Parameter(like.detach().new_empty(0), requires_grad=False)
            if key == "weight" and CODES in owner._buffers:
                owner._buffers[CODES] = owner.get_buffer(CODES).new_empty(0)
        else:
            owner._buffers[key] = owner.get_buffer(key).new_empty(0)
    if not issubclass(type(module), _WithoutNorms):
        module.__class__ = _without_norms(type(module))


def passed_over(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a call of a norm whose tensors hold nothing gives back; None for any other call."""
    if func not in _NORMS:
        return None
    names = ("input", "running_mean") if func is F.batch_norm else ("input", "weight", "bias", "running_mean")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    mean = given.get("running_mean")
    return given["input"] if isinstance(mean, Tensor) and mean.numel() == 0 else None


def own_weight(module: nn.Module) -> Tensor:
    """The weight parameter of a layer, or what its parametrizations make of it."""
    weight = module._parameters.get("weight")
    return weight if weight is not None else module.weight  # type: ignore[return-value]


def _norm(node: Node, path: str, *, alone: bool) -> Norm | None:
    edges = (node.args[3], node.args[4], node.args[1], node.args[2])
    names: list[str | None] = []
    for edge in edges:
        if edge is not None and not _read_here_alone(edge, node):
            return None
        names.append(None if edge is None else edge.value.name)
    mean, variance, weight, bias = names
    if node.op.call is None or mean is None or variance is None:
        return None
    return Norm(path, node, alone, mean, variance, weight, bias, float(node.op.args[-1]))


def _read_here_alone(edge: Edge, node: Node) -> bool:
    return edge.producer is None and edge.value.name is not None and edge.readers == [node]


def _owns(module: nn.Module, node: Node) -> bool:
    """Whether `module` is a norm that runs itself, and so can be replaced as a whole."""
    own = isinstance(module, nn.modules.batchnorm._BatchNorm)
    return own and node.args[3].value.name == f"{node.op.module}.running_mean".removeprefix(".")


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd)


class _WithoutNorms:
    """Marks the classes that pass over norms that hold nothing."""


@once
def _without_norms(base: type[nn.Module]) -> type[nn.Module]:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _PassOver():
            return base.forward(self, *args, **kwargs)

    members = {"forward": forward, "__reduce_ex__": reduced_by(_without_norms, base)}
    return type(f"Folded{base.__name__}", (_WithoutNorms, base), members)


class _PassOver(TorchFunctionMode):
    """Within it a batch norm whose running mean holds no numbers gives back what it is given."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        passed = passed_over(func, args, kwargs or {})
        return func(*args, **(kwargs or {})) if passed is None else passed
