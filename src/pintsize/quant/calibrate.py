"""Post-training quantization: from a float network and a few hundred images to scales and zero points."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..data import images_of
from ..errors import InputError, InputTypeError
from ..graph import trace
from ..record import append, check_order
from . import convert, flow, observers, patterns, placement, rounding
from . import equalize as equalization
from .bias import correct_biases
from .fold import FoldStep, fold_batchnorm
from .observers import ExtentObserver, HistogramObserver
from .progress import bar
from .quantizer import FakeQuantize
from .record import QuantizeStep, activation_json
from .result import QuantizationResult, describe


def quantize(
    model: nn.Module,
    *,
    weights: patterns.Bits = 8,
    activations: patterns.Bits = 8,
    calibration: Iterable[Any] | Tensor | None = None,
    method: str = "mse",
    ignore: Sequence[str] = (),
    example: Any = None,
    calibration_images: int = 512,
    edges: int | None = 8,
    outputs: bool = False,
    equalize: bool = False,
    learn_rounding: bool = False,
    correct_bias: bool = False,
    iterations: int = 500,
    seed: int = 0,
    progress: bool | None = None,
) -> QuantizationResult:
    """Quantize `model` in place: batch norm folded, weights per channel, activations per tensor.

    Weights are symmetric with one scale per output channel, activations affine with one scale per tensor;
    where quantizers go, see `quant.placement`. On any error the model is as it was.

    Args:
        model: any network.
        weights: bits, 1 to 8; None leaves weights float; or pattern → bits by layer name (the first
            pattern that matches a layer or a module around it counts; other layers get 8).
        activations: likewise, 2 to 8, of what each layer reads. Adds and pools compute in 8 bits.
        calibration: a split or any iterable of batches of images; needed to quantize activations.
        method: how ranges are chosen: 'minmax', 'ema', 'percentile', 'mse' or 'entropy'; or 'best': 'mse'
            with learned rounding and bias correction, and equalisation where it lowers the error.
        ignore: patterns of layers that stay in floating point.
        example: an input to trace the network with; by default of the first calibration batch.
        calibration_images: how many images to look at.
        edges: the first and the last layer get no fewer bits than this when one number is given for all.
        outputs: quantize the results of the network, too.
        equalize: scale channels between layers beforehand (`quant.equalize`).
        learn_rounding: learn for each weight below 8 bits whether to round up or down (`quant.rounding`).
        correct_bias: make up for shifted means (`quant.bias`).
        iterations: training steps of learned rounding, per block.
        seed: of learned rounding.
        progress: show a progress bar; None: on a terminal.

    Raises:
        InputError: bits out of range, an unknown method, a pattern that matches nothing, no calibration
            images, an activation that is constant or not finite (the layer is named).
        IllegalOrder: the network is quantized already.
    """
    if not isinstance(model, nn.Module):
        raise InputTypeError(
            f"model of type {type(model).__name__}", "it is not a network", "pass an nn.Module"
        )
    check_order(model, QuantizeStep)
    best = method == "best"
    method = "mse" if best else method
    observers.check_method(method)
    if iterations < 1:
        raise InputError(f"iterations={iterations}", "learned rounding needs training steps", "pass 500")
    refine = best or equalize or learn_rounding or correct_bias
    images = _images(model, calibration, calibration_images) if activations is not None or refine else []
    example = _example(example, images)
    work = copy.deepcopy(model).eval()
    folded = fold_batchnorm(work, example)
    step = _plan(
        work,
        example,
        weights=weights,
        activations=activations,
        ignore=ignore,
        edges=edges,
        outputs=outputs,
    )

    def quantized(source: nn.Module) -> nn.Module:
        made = copy.deepcopy(source)
        step.apply(made)
        _calibrate_weights(made, method)
        _calibrate_activations(made, step, images, method, progress)
        return made

    reference, equalized, work = work, [], quantized(work)
    if equalize or best:
        other = copy.deepcopy(reference)
        pairs = equalization.equalize(other, images)
        trial = quantized(other)
        if equalize or _error(trial, reference, images) < _error(work, reference, images):
            reference, equalized, work = other, pairs, trial
    rounded: list[str] = []
    if learn_rounding or best:
        with bar("learn rounding", len(rounding.blocks(work, images[0][:2])), progress) as advance:
            rounded = rounding.learn_rounding(work, images, iterations=iterations, seed=seed, advance=advance)
    if correct_bias or best:
        with bar("correct biases", len(step.weights), progress) as advance:
            correct_biases(work, reference, images, advance=advance)
    round_biases(work, step)
    commit(model, work, [each for each in (folded, step) if each is not None])
    return describe(model, step, folded, equalized=equalized, rounded=rounded)


@torch.no_grad()
def _error(model: nn.Module, reference: nn.Module, images: Sequence[Tensor]) -> float:
    """Mean squared difference of the results of two networks on `images`."""
    total = torch.zeros((), dtype=torch.float64)
    for batch in images:
        for found, wanted in zip(tree_leaves(model(batch)), tree_leaves(reference(batch)), strict=True):
            if isinstance(found, Tensor) and found.is_floating_point():
                total += (found - wanted).double().square().mean().cpu()
    return float(total)


def _example(example: Any, images: list[Tensor]) -> Any:
    if example is not None:
        return example
    if not images:
        raise InputError(
            "example=None", "the network cannot be traced without an input", "pass an example input"
        )
    return images[0][:2]


def commit(model: nn.Module, work: nn.Module, steps: Sequence[FoldStep | QuantizeStep]) -> None:
    """Make `model` what `work` is: a copy of it to which `steps` were done and values given."""
    for step in steps:
        step.apply(model)
        append(model, step)
    model.load_state_dict(work.state_dict())


def round_biases(model: nn.Module, step: QuantizeStep) -> None:
    """Round each bias to a multiple of `weight scale · input scale`, the unit of an int32 accumulator.

    A channel whose scales are so small that its bias would not fit into int32 gets a larger weight scale
    (its weights are next to nothing beside its bias).
    """
    for name, layer in convert.weight_layers(model):
        source = layer._modules.get(convert.LAYER_INPUT)
        if source is None and name in step.inputs:
            source = model.get_submodule(f"{convert.ACTIVATIONS}.{step.inputs[name]}")
        if not isinstance(source, FakeQuantize) or not isinstance(layer.bias, Tensor):
            continue
        weight_quantizer = layer._modules[convert.WEIGHT]
        assert isinstance(weight_quantizer, FakeQuantize)
        with torch.no_grad():
            bias, scale = layer.bias.double(), source.scale.double()
            rows = bias.view(
                -1, len(weight_quantizer.scale)
            )  # several groups of a transposed layer share scales
            least = rows.abs().amax(0) / (scale * 2**30)
            weight_quantizer.scale.copy_(torch.maximum(weight_quantizer.scale.double(), least))
            unit = weight_quantizer.scale.double() * scale
            layer.bias.copy_((torch.round(rows / unit) * unit).view(-1))


def _images(model: nn.Module, calibration: Iterable[Any] | Tensor | None, limit: int) -> list[Tensor]:
    if calibration is None:
        raise InputError(
            "calibration=None",
            "the ranges of activations cannot be known without images",
            "pass data.train or a few batches of images, or activations=None",
        )
    tensor = next(model.parameters(), torch.empty(0))
    images = [batch.to(tensor.device) for batch in images_of(calibration, limit)]
    images = [batch for batch in images if len(batch)]
    if not images:
        raise InputError("calibration", "it holds no images", "pass data.train or a few batches of images")
    for number, batch in enumerate(images):
        if not batch.isfinite().all():
            raise InputError(
                f"calibration batch {number}", "it holds NaN or infinite values", "clean the images"
            )
    return images


def _plan(
    model: nn.Module,
    example: Any,
    *,
    weights: patterns.Bits,
    activations: patterns.Bits,
    ignore: Sequence[str],
    edges: int | None,
    outputs: bool,
) -> QuantizeStep:
    recorded = trace.record(model, example)
    layers = placement.layers(flow.build(recorded, model))
    if not layers:
        raise InputError(
            f"model {type(model).__name__}",
            "it has no convolution or linear layer to quantize",
            "pass a network that has one",
        )
    ignored = patterns.matching("ignore", ignore, layers)
    weight_bits = patterns.bits_of_layers("weights", weights, layers, lowest=1, edges=edges)
    input_bits = patterns.bits_of_layers("activations", activations, layers, lowest=2, edges=edges)
    plan = placement.Plan(layers=[layer for layer in layers if layer not in ignored])
    if activations is not None:
        plan = placement.plan(flow.build(recorded, model, ignore=ignored), input_bits, outputs=outputs)
    chosen = {layer: bits for layer in plan.layers if (bits := weight_bits[layer]) is not None}
    return QuantizeStep(chosen, [activation_json(p) for p in plan.activations], plan.inputs, plan.input_bits)


def _calibrate_weights(model: nn.Module, method: str) -> None:
    for name, layer in convert.weight_layers(model):
        quantizer, weight = layer._modules[convert.WEIGHT], layer.weight
        assert isinstance(quantizer, FakeQuantize)
        assert isinstance(weight, Tensor)
        if not weight.isfinite().all():
            raise InputError(
                f"weight of layer {name}",
                "it holds NaN or infinite values",
                "load sound weights or train again",
            )
        observers.set_weight_range(quantizer, weight, method)


def _calibrate_activations(
    model: nn.Module, step: QuantizeStep, images: list[Tensor], method: str, progress: bool | None
) -> None:
    """Set the ranges of all activations from what the float network computes on `images`."""
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
    quantizers: dict[str, FakeQuantize],
    watchers: Any,
    images: list[Tensor],
    advance: Callable[[], None],
) -> None:
    with floating_point(model), torch.no_grad():
        for name, quantizer in quantizers.items():
            quantizer.observer = watchers[name]
        try:
            for batch in images:
                model(batch)
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
