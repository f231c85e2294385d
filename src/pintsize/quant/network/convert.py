"""Making a network quantized in place, whatever its `forward` looks like.

- Each layer becomes a subclass of its own class with a child `weight_quantizer`; its `weight` is rounded
  while its `forward` runs and is the float parameter at any other time.
- The network itself becomes a subclass of its own class with a child `activation_quantizers`. Its
  `forward` runs under a `TorchFunctionMode` that names calls exactly as `graph.trace` did and sends
  the results of the planned ones through their quantizers.

Biases stay float parameters. A file stores them as int32 at `weight scale · input scale`; `quantize`
has rounded them to such multiples (`calibrate.round_biases`), so that nothing is lost in export.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from torch.utils.weak import WeakTensorKeyDictionary

from ...graph.trace import CallKey, function_name
from ..grid.quantizer import FakeQuantize
from .norms import passed_over
from .placement import INPUT, Place, Placement
from .subclasses import once, reduced_by

WEIGHT = "weight_quantizer"
LAYER_INPUT = "input_quantizer"
ACTIVATIONS = "activation_quantizers"
_PLACES = "_pintsize_places"
_SKIPS = "_pintsize_skips"
_running = threading.local()


def is_quantized(model: nn.Module) -> bool:
    """Whether any weight or activation of `model` is quantized."""
    return ACTIVATIONS in model._modules or any(True for _ in _weight_layers(model))


def weight_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Path and module of every layer with a `weight_quantizer`, in the order of `named_modules`."""
    return list(_weight_layers(model))


def activation_quantizers(model: nn.Module) -> dict[str, FakeQuantize]:
    """The quantizers of activations by name, layers' own `input_quantizer`s (named by the layer) included."""
    own = model._modules.get(ACTIVATIONS)
    children = own.named_children() if own is not None else ()
    found = {
        name: module for name, module in children if isinstance(module, FakeQuantize)
    }  # not fixed point's
    for name, layer in model.named_modules():
        read = layer._modules.get(LAYER_INPUT)
        if isinstance(read, FakeQuantize):
            found[name] = read
    return found


def quantizers(model: nn.Module) -> Iterator[FakeQuantize]:
    """Every quantizer in `model`, of weights and of activations."""
    return (module for module in model.modules() if isinstance(module, FakeQuantize))


def quantize_layer(
    layer: nn.Module, *, weight_bits: int | None, input_bits: int | None = None, learnable: bool = False
) -> None:
    """Give `layer` quantizers, in place: its scales are 1 until they are calibrated or loaded.

    Args:
        layer: a convolution (transposed too) or linear layer.
        weight_bits: of the weight, symmetric, one scale per output channel; None leaves it float.
        input_bits: of what it reads, if that is rounded further for this layer alone.
        learnable: the scales are parameters.
    """
    if weight_bits is not None:
        axis = 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0
        weight = layer.weight
        assert isinstance(weight, Tensor)
        layer.add_module(
            WEIGHT,
            FakeQuantize(
                weight_bits, signed=True, channels=weight.shape[axis], axis=axis, learnable=learnable
            ).to(weight.device),
        )
    if input_bits is not None:
        layer.add_module(LAYER_INPUT, FakeQuantize(input_bits, learnable=learnable).to(layer.weight.device))  # type: ignore[arg-type]
    layer.train(layer.training)  # the new parts, too
    layer.__class__ = _layer_class(type(layer))


def quantize_activations(
    model: nn.Module,
    placements: Iterable[Placement],
    *,
    learnable: bool = False,
    make: Callable[[Placement], nn.Module] | None = None,
    skips: Mapping[CallKey, int] | None = None,
) -> None:
    """Give `model` the quantizers of `placements`, in place: scales are 1 until calibrated or loaded.

    `make` gives a module of another kind than `FakeQuantize` for each. In an exported graph the calls
    of `skips` are not made: each gives back one of its tensors, the one of that number.
    """
    make = make or (lambda placement: FakeQuantize(placement.bits, learnable=learnable))
    placements = list(placements)
    if not placements:
        return
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    for name, module in model.named_modules():
        if name:  # the pass itself begins in the network
            module.register_forward_pre_hook(functools.partial(_enter, name))
            module.register_forward_hook(_leave)
    quantizers = {p.name: make(p).to(device) for p in placements}
    model.add_module(ACTIVATIONS, nn.ModuleDict(quantizers).train(model.training))
    model.__dict__[_PLACES] = {p.name: tuple(p.places) for p in placements}
    model.__dict__[_SKIPS] = dict(skips or {})
    model.__class__ = _network_class(type(model))


def move_quantizer(model: nn.Module, before: CallKey, after: CallKey) -> None:
    """Quantize the result of the call `after` in place of that of `before`, which is no longer made."""

    def moved(place: Place) -> Place:
        if place.call == before:
            return Place.of(after, 0, echo=place.echo)
        later = place.occurrence > before.occurrence
        if later and (place.module, place.function) == (before.module, before.function):
            return replace(place, occurrence=place.occurrence - 1)
        return place

    places: dict[str, tuple[Place, ...]] = model.__dict__[_PLACES]
    for name, found in places.items():
        places[name] = tuple(moved(place) for place in found)


@contextmanager
def running(model: nn.Module) -> Iterator[None]:
    """Within it, a part of the quantized `model` called on its own has its activations quantized, too."""
    if ACTIVATIONS not in model._modules:  # its weights alone are quantized
        yield
        return
    with _pass(model):
        yield


class _Pass(TorchFunctionMode):
    """One forward of a quantized network."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.modules = [""]
        self.busy = False
        self.seen: Counter[tuple[str, str]] = Counter()
        self.inputs: list[tuple[int, nn.Module]] = []
        weak = not torch.compiler.is_compiling()  # where the compiler frees them, and cannot follow the class
        self.written: Any = WeakTensorKeyDictionary() if weak else {}
        """What an in-place call wrote → the same, quantized: the network may drop what such a call returns."""
        self.wanted: dict[tuple[str, str], dict[int, list[tuple[int, nn.Module]]]] = {}
        exporting = torch.compiler.is_exporting()
        children = model._modules[ACTIVATIONS]
        assert isinstance(children, nn.ModuleDict)
        places: dict[str, tuple[Place, ...]] = model.__dict__[_PLACES]
        for name, quantizer in children.items():
            for place in places[name]:
                if place.function == INPUT:
                    self.inputs.append((place.index, quantizer))
                elif exporting or not place.echo:
                    calls = self.wanted.setdefault((place.module, place.function), {})
                    calls.setdefault(place.occurrence, []).append((place.index, quantizer))
        self.skips: dict[CallKey, int] = model.__dict__.get(_SKIPS, {}) if exporting else {}
        for call in self.skips:
            self.wanted.setdefault((call.module, call.function), {})

    def take(self, args: Any) -> Any:
        """The network's arguments, quantized as planned."""
        return unseen(lambda: _apply(self.inputs, args)) if self.inputs else args

    def latest(self, values: Any) -> Any:
        """`values` with what was written in place and quantized then."""
        return tree_map_only(Tensor, self._latest, values) if self.written else values

    def _latest(self, tensor: Tensor) -> Tensor:
        while (quantized := self.written.get(tensor)) is not None:
            tensor = quantized
        return tensor

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if self.busy:  # inside another call: belongs to that one
            return func(*args, **(kwargs or {}))
        passed = passed_over(func, args, kwargs or {})
        if passed is not None:
            return passed
        key = (self.modules[-1], function_name(func))
        calls = self.wanted.get(key)
        occurrence = self.seen[key]
        self.busy = True
        try:
            args, kwargs = self.latest((args, kwargs or {}))
            nothing = self.skips.get(CallKey(*key, occurrence)) if calls is not None else None
            if nothing is None:
                result = func(*args, **kwargs)
            else:
                tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
                result = tensors[
                    nothing
                ].contiguous()  # a copy that is left out may be there for a view behind it
            if calls is None:
                return result
            self.seen[key] += 1
            quantizers = calls.get(occurrence)
            if quantizers is None:
                return result
            quantized = _apply(quantizers, result)
            in_place = isinstance(result, Tensor) and (result is args[0] or result is kwargs.get("out"))
            if in_place and quantized is not result:
                self.written[result] = quantized
            return quantized
        finally:
            self.busy = False


def unseen(quantized: Callable[[], Any]) -> Any:
    """What `quantized` returns; the operations that quantizers consist of are no calls of the network's own."""
    current = getattr(_running, "current", None)
    if current is None or current.busy:
        return quantized()
    current.busy = True
    try:
        return quantized()
    finally:
        current.busy = False


def _apply(quantizers: list[tuple[int, nn.Module]], result: Any) -> Any:
    """`result` with its `index`-th tensors quantized."""
    if isinstance(result, Tensor):
        return quantizers[0][1](result)
    leaves, spec = tree_flatten(result)
    tensors = [position for position, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    for index, quantizer in quantizers:
        leaves[tensors[index]] = quantizer(leaves[tensors[index]])
    return tree_unflatten(leaves, spec)


@contextmanager
def _pass(model: nn.Module) -> Iterator[_Pass]:
    before = getattr(_running, "current", None)
    current = _Pass(model)
    _running.current = current
    try:
        with current:
            yield current
    finally:
        _running.current = before


def _enter(name: str, _module: nn.Module, _args: Any) -> None:
    current = getattr(_running, "current", None)
    if current is not None:
        current.modules.append(name)


def _leave(_module: nn.Module, _args: Any, _result: Any) -> None:
    current = getattr(_running, "current", None)
    if current is not None:
        current.modules.pop()


def _weight_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in model.named_modules() if WEIGHT in module._modules)


@once
def _layer_class(base: type[nn.Module]) -> type[nn.Module]:
    """The subclass of `base` whose weight is rounded while it runs."""
    inherited: Any = getattr(base, "weight", None)
    inherited_property = isinstance(inherited, property)  # of a parametrized module

    def weight(self: nn.Module) -> Any:
        plain = inherited.fget(self) if inherited_property else self._parameters["weight"]
        quantizer = self._modules.get(WEIGHT)
        if quantizer is None or not self.__dict__.get("_computing"):
            return plain
        return unseen(lambda: quantizer(plain))

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        quantizer = self._modules.get(LAYER_INPUT)
        if quantizer is not None:
            current = getattr(_running, "current", None)
            x = args[0] if current is None else current.latest(args[0])
            args = (unseen(lambda: quantizer(x)), *args[1:])
        self._computing = True  # type: ignore[assignment]
        try:
            return base.forward(self, *args, **kwargs)
        finally:
            self._computing = False  # type: ignore[assignment]

    setter = inherited.fset if inherited_property else None
    members = {
        "forward": forward,
        "weight": property(weight, setter),
        "__reduce_ex__": reduced_by(_layer_class, base),
    }
    return type(f"Quantized{base.__name__}", (base,), members)


@once
def _network_class(base: type[nn.Module]) -> type[nn.Module]:
    """The subclass of `base` that quantizes activations as it runs."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _pass(self) as current:
            args, kwargs = current.take((args, kwargs))
            return current.latest(base.forward(self, *args, **kwargs))

    def named_children(self: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        # the user's forward may run over its children: the quantizers are none of those
        current = getattr(_running, "current", None)
        own = current is not None and current.model is self
        return ((name, child) for name, child in base.named_children(self) if not own or name != ACTIVATIONS)

    def __iter__(self: nn.Module) -> Iterator[nn.Module]:  # noqa: N807
        return (child for name, child in self._modules.items() if name != ACTIVATIONS and child is not None)

    def __len__(self: nn.Module) -> int:  # noqa: N807
        return len(self._modules) - (ACTIVATIONS in self._modules)

    members: dict[str, Any] = {
        "forward": forward,
        "named_children": named_children,
        "__reduce_ex__": reduced_by(_network_class, base),
    }
    if hasattr(base, "__iter__"):
        members |= {"__iter__": __iter__, "__len__": __len__}
    return type(f"Quantized{base.__name__}", (base,), members)
