"""Setting the scales of a network's quantizers from its weights and from calibration images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...data.batches import Inputs, run
from ...errors import InputError
from ..grid.quantizer import FakeQuantize, Observer
from ..network import convert
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


def calibrate_activations(
    model: nn.Module,
    step: QuantizeStep,
    images: Sequence[Inputs],
    method: str,
    *,
    progress: bool | None = False,
) -> None:
    """Set the ranges of all activations from what the float network computes on `images`.

    Raises:
        InputError: an activation is constant, not finite, or never computed; it is named.
    """
    quantizers = convert.activation_quantizers(model)
    if not quantizers:
        return
    labels = {p.name: p.label for p in step.placements}
    where = {name: labels.get(name, f"input of {name}") for name in quantizers}
    extents = {name: ExtentObserver(decay=0.9 if method == "ema" else None) for name in quantizers}
    passes = 1 if method in ("minmax", "ema") else 2
    with bar("calibrate", passes * len(images), progress) as advance:
        _watch(model, quantizers, extents, images, advance)
        for name, extent in extents.items():
            _check_extent(where[name], extent)
        if passes == 1:
            for name, quantizer in quantizers.items():
                quantizer.set_range(extents[name].low, extents[name].high)
            return
        histograms = {name: HistogramObserver(extent.low, extent.high) for name, extent in extents.items()}
        _watch(model, quantizers, histograms, images, advance)
    for name, quantizer in quantizers.items():
        quantizer.set_range(*observers.activation_range(method, histograms[name], quantizer.bits))


def _watch(
    model: nn.Module,
    quantizers: Mapping[str, FakeQuantize],
    watchers: Mapping[str, Observer],
    images: Sequence[Inputs],
    advance: Callable[[], None],
) -> None:
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


def _check_extent(where: str, extent: ExtentObserver) -> None:
    what = f"activation of {where}"
    if extent.count == 0:
        raise InputError(
            what,
            "the forward pass on the calibration images never came by it, unlike that on the example",
            "pass an example that takes the same way through the network as the images",
        )
    if not (extent.low.isfinite() and extent.high.isfinite()):
        raise InputError(
            what, "it holds NaN or infinite values", "check the weights and the normalisation of the images"
        )
    if extent.low == extent.high:
        raise InputError(
            what,
            f"it is constant ({float(extent.low):g}) on all calibration images, so it has no range",
            "calibrate on more, varied images, or leave the layer out with ignore=",
        )


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
