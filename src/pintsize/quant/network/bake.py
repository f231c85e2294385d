"""Weights that a layer computes from its parameters, computed once: in eval mode they are constant.

Weight standardisation within `forward` (`F.conv2d(x, self.standardised())`), weight and spectral norm, masks of
`torch.nn.utils.prune`: afterwards the layer has a plain `weight` of those values, which can be folded, quantized and
trained like any other.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from ...graph import trace
from ...graph.inputs import as_args
from ...storage.record import Step, append, check_order, register
from .flow import Flow, build
from .subclasses import once, reduced_by

_LAYERS = frozenset({
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
})  # fmt: skip
_OWN = ("weight", "bias")
_FORWARD, _AROUND = "forward", "around"
_SEEN = "_pintsize_seen"


@register
@dataclass(frozen=True)
class BakeStep(Step):
    """Weights that layers computed from their parameters became plain weights."""

    kind: ClassVar[str] = "bake"
    may_follow: ClassVar[frozenset[str]] = frozenset({"prune", "depth", "mask", "scatter", "fold"})
    reason: ClassVar[str] = "what it stored belongs to the weights as they were"

    layers: dict[str, str] = field(default_factory=dict)
    """Path of the layer → where the weight was computed: in its 'forward', or 'around' it, by a parametrization or hook."""

    def apply(self, model: nn.Module) -> None:
        """Give each layer a plain weight; values are loaded afterwards."""
        for path, where in self.layers.items():
            layer = model.get_submodule(path)
            if where == _FORWARD:
                layer.__class__ = _baked_class(type(layer))
            else:
                _strip(layer)


def bake(model: nn.Module, example: Any) -> BakeStep | None:
    """Compute once what layers compute of their weights at each forward, in place; adds a step to the record.

    Args:
        model: any network, in eval mode; what it computes is unchanged.
        example: an input, or a tuple of them.

    Returns:
        What was baked, or None if there was nothing.

    Raises:
        IllegalOrder: the record holds a step that this would undo.
    """
    around = {path: _AROUND for path, module in model.named_modules() if _computed_around(module)}
    if around:
        check_order(model, BakeStep)
        BakeStep(around).apply(model)
    inside = _computed_inside(build(trace.record(model, example), model), model)
    found = _captured(model, inside, example) if inside else {}
    if not (around or found):
        return None
    check_order(model, BakeStep)
    step = BakeStep({**around, **dict.fromkeys(found, _FORWARD)})
    BakeStep(dict.fromkeys(found, _FORWARD)).apply(model)
    with torch.no_grad():
        for path, weight in found.items():
            model.get_submodule(path).get_parameter("weight").copy_(weight)
    append(model, step)
    return step


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of `model`; tensors that its hooks left behind in the graph of a pass are copied as they are."""
    kept = {
        id(tensor): tensor.detach().clone()
        for module in model.modules()
        for tensor in module.__dict__.values()
        if isinstance(tensor, Tensor) and not tensor.is_leaf
    }
    return copy.deepcopy(model, kept)


def _computed_around(module: nn.Module) -> bool:
    """Whether a tensor of `module` is computed by torch's parametrizations or hooks, not by our own."""
    return bool(_hooks(module)) or _parametrized(module)


def _parametrized(module: nn.Module) -> bool:
    if not (_is_layer(module) and parametrize.is_parametrized(module)):
        return False
    made = [each for found in module.parametrizations.values() for each in found]  # type: ignore[operator]
    return not any(type(each).__module__.startswith("pintsize.") for each in made)


def _hooks(module: nn.Module) -> list[tuple[str, Callable[[nn.Module, str], Any]]]:
    """The tensors of `module` that hooks compute, and how to take each hook out."""
    found: list[tuple[str, Callable[[nn.Module, str], Any]]] = []
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod):
            found.append((str(hook._tensor_name), prune.remove))
        elif isinstance(hook, WeightNorm):
            found.append((hook.name, remove_weight_norm))
        elif isinstance(hook, SpectralNorm):
            found.append((hook.name, remove_spectral_norm))
    return found


def _strip(module: nn.Module) -> None:
    for name, remove in _hooks(module):
        remove(module, name)
    for key, hook in list(
        module._load_state_dict_pre_hooks.items()
    ):  # torch leaves behind what reads older files
        inner = getattr(hook, "hook", hook)
        name = getattr(inner, "__name__", "")
        if isinstance(inner, SpectralNormLoadStateDictPreHook) or name == "_weight_norm_compat_hook":
            del module._load_state_dict_pre_hooks[key]
    if not _parametrized(module):
        return
    values = {name: getattr(module, name) for name in module.parametrizations}  # type: ignore[union-attr]
    # torch's remove_parametrizations takes the properties from the class, which copies of the module share
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module._modules["parametrizations"]
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value.detach().clone()))


def _computed_inside(flow: Flow, model: nn.Module) -> list[str]:
    """Paths of the layers whose forward computes the weight that they multiply with."""
    modules = dict(model.named_modules())
    found = []
    for node in flow.nodes:
        path, weight = node.op.module, node.weight
        layer = modules[path]
        plain = _is_layer(layer) and "weight" in layer._parameters and not _has_property(layer)
        if weight is not None and node.layer is None and plain and not weight.computed:
            found.append(path)
    return found


def _captured(model: nn.Module, paths: list[str], example: Any) -> dict[str, Tensor]:
    """The weight that each layer of `paths` multiplies with, if one such product is all that it computes."""
    layers = {path: model.get_submodule(path) for path in paths}
    before = {path: type(layer) for path, layer in layers.items()}
    try:
        for layer in layers.values():
            layer.__class__ = _baked_class(type(layer))
            layer.__dict__[_SEEN] = deque()  # a list would be put back as it was after the run
        with trace.quiet(model):
            model(*as_args(example, model))
        seen = {path: layer.__dict__[_SEEN] for path, layer in layers.items()}
    finally:
        for path, layer in layers.items():
            layer.__class__ = before[path]
            layer.__dict__.pop(_SEEN, None)
    return {
        path: calls[0][0]
        for path, calls in seen.items()
        if len(calls) == 1
        and calls[0][1] is layers[path].bias
        and calls[0][0].shape == layers[path].weight.shape
    }


@once
def _baked_class(base: type[nn.Module]) -> type[nn.Module]:
    """The subclass of `base` whose `forward` multiplies with `weight` as it is, whatever it computes from it."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _OwnWeight(self):
            return base.forward(self, *args, **kwargs)

    members = {"forward": forward, "__reduce_ex__": reduced_by(_baked_class, base)}
    return type(f"Baked{base.__name__}", (base,), members)


class _OwnWeight(TorchFunctionMode):
    """Within it convolutions and products take a layer's own weight and bias in place of those that they are given."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func not in _LAYERS:
            return func(*args, **(kwargs or {}))
        given = {**dict(zip(("input", *_OWN), args, strict=False)), **(kwargs or {})}
        seen = self.layer.__dict__.get(_SEEN)
        if seen is not None:
            seen.append((given["weight"], given.get("bias")))
            return func(*args, **(kwargs or {}))
        given.update((name, getattr(self.layer, name)) for name in _OWN)
        return func(given.pop("input"), given.pop("weight"), given.pop("bias"), *args[3:], **given)


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd)


def _has_property(module: nn.Module) -> bool:
    return isinstance(getattr(type(module), "weight", None), property)
