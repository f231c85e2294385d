"""Setting the scales of a network's quantizers from its weights and from calibration images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...data.batches import Inputs, run
from ...errors import InputError
from ..grid.quantizer import LEAST, FakeQuantize, Observer
from ..network import convert
from ..network.placement import INPUT, Placement
from ..network.record import QuantizeStep
from . import observers
from .observers import ExtentObserver, HistogramObserver
from .progress import bar


def calibrate_weights(model: nn.Module, method: str) -> None:
    """Set the scales of all weight quantizers from the weights.

    Raises:
        InputError: a weight or bias is not finite; its layer is named.
    """
    for name, layer in convert.weight_layers(model):
        quantizer, weight = layer._modules[convert.WEIGHT], layer.weight
        assert isinstance(quantizer, FakeQuantize)
        assert isinstance(weight, Tensor)
        for kind in ("weight", "bias"):
            values = getattr(layer, kind)
            if isinstance(values, Tensor) and not values.isfinite().all():
                raise InputError(
                    f"{kind} of layer {name}",
                    "it holds NaN or infinite values",
                    "load sound weights or train again",
                )
        observers.set_weight_range(quantizer, weight, method)


@torch.no_grad()
def calibrate_activations(
    model: nn.Module,
    step: QuantizeStep,
    images: Sequence[Inputs],
    method: str,
    *,
    progress: bool | None = False,
) -> list[str]:
    """Set the ranges of all activations from what the float network computes on `images`.

    One that is constant on all of them gets it as a level; one that is zero, a scale that is fine enough for the biases
    of the layers that read it.

    Args:
        model: with calibrated weights.
        step: how it is quantized.
        images: batches.
        method: how ranges are chosen.
        progress: as for `quantize`.

    Returns:
        The names of quantizers whose activation is constant.

    Raises:
        InputError: an activation is not finite or never computed (it is named), or the network's inputs are constant.
    """
    quantizers = convert.activation_quantizers(model)
    extents = {name: ExtentObserver(decay=0.9 if method == "ema" else None) for name in quantizers}
    passes = 1 if method in ("minmax", "ema") else 2
    with bar("calibrate", passes * len(images), progress) as advance:
        watch(model, quantizers, extents, images, advance)
        _check_extents(step, extents)
        constants = [name for name, extent in extents.items() if extent.low == extent.high]
        varied = {name: quantizer for name, quantizer in quantizers.items() if name not in constants}
        histograms = {}
        if passes == 2:
            histograms = {name: HistogramObserver(extents[name].low, extents[name].high) for name in varied}
            watch(model, varied, histograms, images, advance)
    for name, quantizer in varied.items():
        ends = extents[name].low, extents[name].high
        if passes == 2:
            ends = observers.activation_range(method, histograms[name], quantizer.bits)
        quantizer.set_range(*ends)
    for name in constants:
        if extents[name].low == 0:
            quantizers[name].scale.fill_(_scale_of_zeros(model, quantizers[name], step))
        else:
            quantizers[name].set_constant(extents[name].low)
    return constants


_FINE = 2.0**-12


def _scale_of_zeros(model: nn.Module, quantizer: FakeQuantize, step: QuantizeStep) -> float:
    """A scale for an activation that is zero: its readers' biases are multiples of it times their weights' scales.

    The largest bias of each is so many multiples (2^12) that rounding it changes nothing; should there be
    other values than zero one day, those that matter beside that bias are covered.
    """
    found = [_FINE]  # where norms hold the biases
    for name, layer in convert.weight_layers(model):
        path, bias = input_quantizer(name, layer, step), layer.bias
        if path is None or not isinstance(bias, Tensor) or model.get_submodule(path) is not quantizer:
            continue
        weights = layer._modules[convert.WEIGHT]
        assert isinstance(weights, FakeQuantize)
        if bias.any():
            found.append(float(bias.detach().abs().amax() / weights.scale.detach().amax()) * _FINE)
    return max(min(found[1:] or found), LEAST)


def watch(
    model: nn.Module,
    quantizers: Mapping[str, FakeQuantize],
    watchers: Mapping[str, Observer],
    images: Sequence[Inputs],
    advance: Callable[[], object] = lambda: None,
) -> None:
    """Let `watchers` see what the float network gives to `quantizers` on `images`."""
    with floating_point(model), torch.no_grad():
        for name, quantizer in quantizers.items():
            quantizer.observer = watchers[name]
        try:
            for batch in images:
                run(model, batch)
                advance()
        finally:
            for quantizer in quantizers.values():
                quantizer.observer = None


@contextmanager
def floating_point(model: nn.Module) -> Iterator[None]:
    """Within it the quantized `model` computes in floating point."""
    switched = [quantizer for quantizer in convert.quantizers(model) if quantizer.enabled]
    for quantizer in switched:
        quantizer.enabled = False
    try:
        yield
    finally:
        for quantizer in switched:
            quantizer.enabled = True


def _check_extents(step: QuantizeStep, extents: Mapping[str, ExtentObserver]) -> None:
    labels = {placement.name: placement.label for placement in step.placements}
    for name, extent in extents.items():
        check_seen(
            labels.get(name, f"input of {name}"),
            seen=extent.count > 0,
            finite=bool(extent.low.isfinite() and extent.high.isfinite()),
        )
    check_inputs(
        {p.label: (float(extents[p.name].low), float(extents[p.name].high)) for p in inputs(step.placements)}
    )


def check_seen(label: str, *, seen: bool, finite: bool) -> None:
    """Raise `InputError` unless an activation was `seen` on the calibration images and its values were `finite`."""
    if not seen:
        raise InputError(
            f"activation of {label}",
            "the forward pass on the calibration images never came by it, unlike that on the example",
            "pass an example that takes the same way through the network as the images",
        )
    if not finite:
        raise InputError(
            f"activation of {label}",
            "it holds NaN or infinite values",
            "check the weights and the normalisation of the images",
        )


def check_inputs(ends: Mapping[str, tuple[float, float]]) -> None:
    """Raise `InputError` if none of the network's quantized inputs, label → extent, varies on the calibration images."""
    if ends and all(low == high for low, high in ends.values()):
        label, (value, _) = next(iter(ends.items()))
        raise InputError(
            f"activation of {label}",
            f"it is constant ({value:g}) on all calibration images, which tell no range then",
            "calibrate on images as the network will see them",
        )


def inputs(placements: Iterable[Placement]) -> list[Placement]:
    """Those of `placements` that are inputs of the network."""
    return [placement for placement in placements if placement.places[0].function == INPUT]


def input_quantizer(name: str, layer: nn.Module, step: QuantizeStep) -> str | None:
    """Path of the quantizer whose levels `layer`, called `name`, reads; None if it reads floats."""
    if convert.LAYER_INPUT in layer._modules:
        return f"{name}.{convert.LAYER_INPUT}" if name else convert.LAYER_INPUT
    return f"{convert.ACTIVATIONS}.{step.inputs[name]}" if name in step.inputs else None


@torch.no_grad()
def round_biases(model: nn.Module, step: QuantizeStep) -> None:
    """Round each bias to a multiple of `weight scale · input scale`, the unit of an int32 accumulator."""
    for name, layer in convert.weight_layers(model):
        rounded = rounded_bias(model, name, layer, step)
        if rounded is not None:
            layer.get_parameter("bias").copy_(rounded)


@torch.no_grad()
def rounded_bias(model: nn.Module, name: str, layer: nn.Module, step: QuantizeStep) -> Tensor | None:
    """What `round_biases` makes of the bias of one layer; None if the layer has none, or reads floats.

    A channel whose scales are so small that its bias would not fit into int32 gets a larger weight scale
    (its weights are next to nothing beside its bias).
    """
    path = input_quantizer(name, layer, step)
    source = None if path is None else model.get_submodule(path)
    if not isinstance(source, FakeQuantize) or not isinstance(layer.bias, Tensor):
        return None
    weight_quantizer = layer._modules[convert.WEIGHT]
    assert isinstance(weight_quantizer, FakeQuantize)
    bias, scale = layer.bias.double(), source.scale.double()
    # the groups of a transposed layer share scales
    rows = bias.view(-1, len(weight_quantizer.scale))
    least = rows.abs().amax(0) / (scale * 2**29)
    too_small = weight_quantizer.scale.double() < least
    weight_quantizer.scale.copy_(torch.where(too_small, least, weight_quantizer.scale))
    unit = weight_quantizer.scale.double() * scale
    return (torch.round(rows / unit) * unit + 0.0).view(-1).to(layer.bias.dtype)  # 0 for −0
