"""Masks that hold: a layer becomes a subclass of its own class, with a buffer that says which weights are kept.

- Where gradients flow, `forward` uses `weight · mask`, so a removed weight has no effect and no gradient.
- The parameter itself is exactly zero at removed places: it is made so after every step of any of torch's
  optimizers, before every forward that follows another change, and before anything reads `state_dict`. So a
  plain PyTorch loop, a copy, an average, a checkpoint and an export all see the zeros.
- In evaluation the layer computes with its parameter as it is: to whoever reads the network's operations
  (quantization, export, channel pruning) it is an ordinary layer.

In a state dict the mask is packed, one bit a weight, under `<layer>.weight_mask`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode

from ...errors import InputError
from ...storage import record as _record

MASK = "weight_mask"
_ACTIVE = "_pintsize_masking"
_HELD = "_pintsize_held"
_Class = type[nn.Module]
_MADE: dict[_Class, _Class] = {}
_LIVE: WeakSet[nn.Module] = WeakSet()
"""All masked layers there are, copies among them: whom the step of an optimizer may concern."""
_watching: list[torch.utils.hooks.RemovableHandle] = []


@_record.register
@dataclass(frozen=True)
class MaskStep(_record.Step):
    """Single weights were removed: the layers have masks, whose values are tensors of the model."""

    kind: ClassVar[str] = "mask"
    may_follow: ClassVar[frozenset[str]] = frozenset({"prune", "depth", "mask", "bake", "fold"})
    reason: ClassVar[str] = "the weights are rounded or shared already, and their codes hold no such zeros"

    layers: list[str] = field(default_factory=list)
    """Paths of the masked layers."""
    importance: str = "magnitude"
    scope: str = "global"
    pattern: str = "element"
    density: float | None = None
    """Share of the weights of `layers` to keep; None where the pattern says it."""

    def apply(self, model: nn.Module) -> None:
        """Give each layer a mask that keeps everything; the values are loaded afterwards."""
        for path in self.layers:
            add_mask(model.get_submodule(path))


def maskable(model: nn.Module) -> dict[str, nn.Module]:
    """Path → module of every layer whose weights can be removed one by one: convolutions and linear layers.

    The output projection inside `nn.MultiheadAttention` is none: attention reads its weight without running it.
    """
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        and not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
        and module._parameters.get("weight") is not None
    }


def masked_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Path → module of every layer that has a mask."""
    return {path: module for path, module in model.named_modules() if is_masked(module)}


def is_masked(layer: nn.Module) -> bool:
    """Whether `layer` has a mask of pintsize's; torch.nn.utils.prune has buffers of the same name."""
    return isinstance(layer, _Masking) and MASK in layer._buffers


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameter name → its mask, bool, shaped like the weight; True where it is kept."""
    return {weight_name(path): _mask(layer).bool() for path, layer in masked_layers(model).items()}


def add_mask(layer: nn.Module) -> None:
    """Give `layer` a mask of ones, in place; one that has a mask keeps it."""
    if is_masked(layer):
        return
    weight = _weight(layer)
    layer.register_buffer(MASK, torch.ones_like(weight, requires_grad=False), persistent=False)
    layer.__class__ = _masked_class(type(layer))
    _watch(layer)


def _watch(layer: nn.Module) -> None:
    """From now on every step of an optimizer that has the weight of `layer` ends with its mask held."""
    _LIVE.add(layer)
    if not _watching:
        _watching.append(register_optimizer_step_post_hook(_after_step))


def _after_step(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
    if not _LIVE:
        return
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for layer in list(_LIVE):
        if id(layer._parameters.get("weight")) in stepped and is_masked(layer):
            layer.__dict__.pop(_HELD, None)  # fused optimizers leave no trace in the version
            hold(layer)


def set_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set masks by parameter name, in place; removed weights become zero at once.

    Args:
        model: its layers get masks where they have none.
        masks: bool, each shaped like its weight.

    Raises:
        InputError: no such weight, or another shape; nothing was changed.
    """
    layers = {weight_name(path): layer for path, layer in maskable(model).items()}
    for name, mask in masks.items():
        if name not in layers:
            raise InputError(
                f"mask for {name!r}",
                f"{type(model).__name__} has no convolution or linear layer with this weight",
                "name weights as in model.named_parameters()",
            )
        if mask.shape != _weight(layers[name]).shape:
            raise InputError(
                f"mask for {name!r} of shape {tuple(mask.shape)}",
                f"the weight's shape is {tuple(_weight(layers[name]).shape)}",
                "pass one value for each weight",
            )
    for name, mask in masks.items():
        layer = layers[name]
        add_mask(layer)
        _mask(layer).copy_(mask)
        layer.__dict__.pop(_HELD, None)
        hold(layer)


def remove_masks(model: nn.Module) -> list[str]:
    """Make plain layers of the masked ones, in place: the zeros stay as values, nothing holds them any more.

    Returns:
        Paths of the layers. Their steps leave the record, since a plain network now takes the weights.
    """
    layers = masked_layers(model)
    for path, layer in layers.items():
        if "_pintsize_mask_base" not in type(layer).__dict__:
            raise InputError(
                f"masks of layer {path}",
                f"the layer has become a {type(layer).__name__} since",
                "remove masks before what was done after them, or leave them in: export writes the zeros alone",
            )
    for layer in layers.values():
        hold(layer)
        del layer._buffers[MASK]
        layer._non_persistent_buffers_set.discard(MASK)
        for key in (_HELD, _ACTIVE):
            layer.__dict__.pop(key, None)
        _LIVE.discard(layer)
        layer.__class__ = next(c for c in type(layer).__mro__ if "_pintsize_mask_base" not in c.__dict__)
    if layers:
        kept = [step for step in _record.record(model) if not isinstance(step, MaskStep)]
        model.__dict__[_record._RECORD] = kept
    return list(layers)


@torch.no_grad()
def hold(layer: nn.Module) -> None:
    """Make removed weights exactly zero, unless nothing has touched the weight since this was last done."""
    weight, mask = _weight(layer), _mask(layer)
    now = None if weight.is_inference() else (id(weight), weight._version, weight.data_ptr())
    if now is not None and layer.__dict__.get(_HELD) == now:
        return
    with _disable_current_modes(), torch._C.DisableTorchFunction():  # whoever counts operations sees none
        if mask.stride() != weight.stride():  # channels-last weights: the product is slow on mixed layouts
            mask.data = torch.empty_like(weight).copy_(mask).detach()
        weight.data.mul_(mask)  # .data: autograd may hold the weight, whose kept values are as before
    layer.__dict__[_HELD] = now


def weight_name(path: str) -> str:
    """Name of the weight of the layer at `path`."""
    return f"{path}.weight" if path else "weight"


def _weight(layer: nn.Module) -> nn.Parameter:
    weight = layer._parameters["weight"]
    assert weight is not None
    return weight


def _mask(layer: nn.Module) -> Tensor:
    mask = layer._buffers[MASK]
    assert mask is not None
    return mask


class _Masking:
    """What a masked layer does besides what its own class does."""

    _pintsize_mask_base: ClassVar[Any] = None

    def after_optimizer_step(self: Any) -> None:
        self.__dict__.pop(_HELD, None)
        hold(self)

    def train(self: Any, mode: bool = True) -> Any:
        hold(self)
        return super().train(mode)  # type: ignore[misc]

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            hold(self)
            if _get_current_dispatch_mode() is not None:
                # whoever records the operations sees that mask and weight have the same channels
                _mask(self).mul_(torch.ones_like(_weight(self).detach()))
        self.__dict__[_ACTIVE] = True
        try:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        finally:
            self.__dict__[_ACTIVE] = False
            if (
                torch.is_grad_enabled()
            ):  # whoever steps without torch's optimizers may leave no trace in the version
                self.__dict__.pop(_HELD, None)

    def _save_to_state_dict(self: Any, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        hold(self)
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[misc]
        destination[prefix + MASK] = _pack(_mask(self))

    def _load_from_state_dict(
        self: Any, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, missing: list[str],
        unexpected: list[str], errors: list[str],
    ) -> None:  # fmt: skip
        key = prefix + MASK
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)  # type: ignore[misc]
        if key in unexpected:
            unexpected.remove(key)
        packed = state_dict.get(key)
        if packed is None:
            missing.append(key)
        elif packed.dtype != torch.uint8 or packed.shape != (-(-_mask(self).numel() // 8),):
            errors.append(f"{key} holds no mask of {_mask(self).numel()} weights")
        else:
            with torch.no_grad():
                _mask(self).copy_(_unpack(packed, _mask(self).shape))
        self.__dict__.pop(_HELD, None)
        hold(self)

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        reduced = super().__reduce_ex__(protocol)
        return (_new, (self._pintsize_mask_base,), *reduced[2:])

    def __getstate__(self: Any) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.pop(_HELD, None)  # of this very tensor
        return state


def _masked_class(base: _Class) -> _Class:
    """The subclass of `base` whose weight is masked; the same for the same class."""
    if base in _MADE:
        return _MADE[base]

    def weight(self: nn.Module) -> Tensor:
        plain = _weight(self)
        active = self.__dict__.get(_ACTIVE) and torch.is_grad_enabled() and plain.requires_grad
        return plain * _mask(self) if active and not torch.compiler.is_exporting() else plain

    members: dict[str, Any] = {"weight": property(weight), "_pintsize_mask_base": base}
    _MADE[base] = type(f"Masked{base.__name__}", (_Masking, base), members)
    return _MADE[base]


def _new(base: _Class) -> nn.Module:
    made = _masked_class(base)
    layer: nn.Module = made.__new__(made)
    _watch(layer)
    return layer


def _pack(mask: Tensor) -> Tensor:
    bits = mask.detach().cpu().contiguous().reshape(-1).bool().numpy()
    return torch.from_numpy(np.packbits(bits)).to(mask.device)


def _unpack(packed: Tensor, shape: torch.Size) -> Tensor:
    bits = np.unpackbits(packed.cpu().numpy(), count=shape.numel())
    return torch.from_numpy(bits).reshape(shape).to(packed.device)


def density(model: nn.Module) -> float:
    """Share of the weights of the masked layers that is kept; 1.0 where nothing is masked."""
    counts = [(int(mask.sum()), mask.numel()) for mask in masks_of(model).values()]
    total = sum(size for _, size in counts)
    return sum(kept for kept, _ in counts) / total if total else 1.0
