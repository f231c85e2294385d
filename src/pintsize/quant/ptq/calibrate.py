"""Post-training quantization: from a float network and a few hundred images to scales and zero points."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...data import UnlabelledSplit, images_of, varied
from ...data.batches import Inputs, moved, rows, run, size
from ...errors import InputError, InputTypeError
from ...graph import trace
from ...storage.entry import changes_network
from ...storage.record import append, check_order, record
from ...storage.wrapped import plain
from ...tasks.teaching import Taught
from ..grid.ties import settle
from ..network import flow, in_float, patterns, placement
from ..network.bake import BakeStep, bake, copied
from ..network.fold import FoldStep, fold_batchnorm, fold_norms, make_factors_positive, shares_scales
from ..network.norms import norms_behind
from ..network.record import QuantizeStep, activation_json
from . import equalize as equalization
from . import in_training, observers, ranges, rounding
from .bias import correct_biases
from .progress import bar
from .result import QuantizationResult, describe

_REDUCED = 7
"""Bits: 2 · 255 · 64 fits in 16 bits."""


@dataclass(frozen=True)
class Refinement:
    """What is done beyond choosing ranges."""

    equalize: bool | None = False
    """None: if it lowers the error of the network's results."""
    learn_rounding: bool = False
    correct_bias: bool = False
    iterations: int = 500
    seed: int = 0

    @property
    def moves_weights(self) -> bool:
        """Whether weights change beyond what folding does."""
        return self.equalize is not False or self.learn_rounding

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise InputError(
                f"iterations={self.iterations}", "learned rounding needs training steps", "pass 500"
            )


@dataclass
class _Done:
    model: nn.Module
    constants: list[str]
    equalized: list[tuple[str, str]] = field(default_factory=list)
    rounded: list[str] = field(default_factory=list)


@changes_network
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
    reduce_range: bool = False,
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
            with learned rounding and bias correction, and equalisation where it lowers the error; or 'lsq': 'mse'
            to begin with, for training: scales are parameters, and batch norms stay until `fold_batchnorm`
            (those of a clustered network are folded at once, as shared values have one sign for all channels, and
            those behind grouped transposed convolutions, whose groups share scales).
            After 'ema' ranges go on following the values in training; after the others they stay fixed.
        ignore: patterns of layers that stay in floating point.
        example: an input to trace the network with; by default of the first calibration batch.
        calibration_images: how many images to look at.
        edges: the first and the last layer get no fewer bits than this when one number is given for all.
        outputs: quantize the results of the network, too.
        reduce_range: no weight has more than 7 bits: for x86 CPUs without VNNI, whose 8-bit kernels add pairs of
            products in 16 bits, where those of 8-bit weights do not fit.
        equalize: scale channels between layers beforehand (`quant.equalize`).
        learn_rounding: learn for each weight below 8 bits whether to round up or down (`quant.rounding`).
        correct_bias: make up for shifted means (`quant.bias`).
        iterations: training steps of learned rounding, per block.
        seed: of learned rounding.
        progress: show a progress bar; None: on a terminal.

    Raises:
        InputError: bits out of range, an unknown method, a pattern that matches nothing, no calibration
            images, an activation that is not finite (the layer is named), or nothing but constant images.
        IllegalOrder: the network is quantized already.
    """
    _check(model)
    if reduce_range:
        weights, edges = patterns.at_most(weights, _REDUCED), patterns.at_most(edges, _REDUCED)
    best = method == "best"
    trained_scales, follow = method == "lsq", 0.9964 if method == "ema" else None
    method = "mse" if best or trained_scales else method
    observers.check_method(method)
    refinement = Refinement(
        equalize=None if best and not equalize else equalize,
        learn_rounding=learn_rounding or best,
        correct_bias=correct_bias or best,
        iterations=iterations,
        seed=seed,
    )
    _check_clusters(model, refinement)
    needed = activations is not None or best or equalize or learn_rounding or correct_bias
    images = calibration_batches(model, calibration, calibration_images) if needed else []
    example = example_of(example, images)
    work = copied(model).eval()
    baked = bake(work, example)
    folded = _without_norms(work, example, trained=trained_scales and not _clustered(model))
    bits = {"weights": weights, "activations": activations}
    step, plan = planned(work, example, bits, ignore=ignore, edges=edges, outputs=outputs)
    step = replace(step, learnable=trained_scales, follow=follow)
    done = _quantized(work, step, plan, images, method, refinement=refinement, progress=progress)
    commit(model, done.model, [each for each in (baked, folded, step) if each is not None])
    floats = in_float.in_float(model, step.weights, plan)
    return describe(
        model, step, folded, floats, constants=done.constants, equalized=done.equalized, rounded=done.rounded
    )


def _check(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise InputTypeError(
            f"model of type {type(model).__name__}", "it is not a network", "pass an nn.Module"
        )
    check_order(model, QuantizeStep)


def _clustered(model: nn.Module) -> bool:
    return any(done.kind == "cluster" for done in record(model))


def _check_clusters(model: nn.Module, refinement: Refinement) -> None:
    if refinement.moves_weights and _clustered(model):
        raise InputError(
            "learned rounding or equalisation of clustered weights",
            "it would part weights that share values",
            "choose another method, or quantize the model as it was before clustering",
        )


def _without_norms(model: nn.Module, example: Any, *, trained: bool) -> FoldStep | None:
    """Fold the norms of `model`; where they go on being `trained` beside their layers, make them fit for it later."""
    if not trained:
        return fold_batchnorm(model, example)
    folded = fold_norms(model, example, shares_scales)
    make_factors_positive(model, norms_behind(flow.build(trace.record(model, example), model), model))
    return folded


def _quantized(
    reference: nn.Module,
    step: QuantizeStep,
    plan: placement.Plan,
    images: list[Inputs],
    method: str,
    *,
    refinement: Refinement,
    progress: bool | None,
) -> _Done:
    """A quantized copy of `reference`."""

    def calibrated(source: nn.Module) -> _Done:
        made = copy.deepcopy(source)
        step.apply(made)
        ranges.calibrate_weights(made, method)
        constants = ranges.calibrate_activations(made, step, images, method, progress=progress)
        if step.learnable and images:
            constants = in_training.fit(made, images[0], constants)
        settle(made, step, plan, constants)
        return _Done(made, constants)

    done = calibrated(reference)
    if refinement.equalize is not False:
        other = copy.deepcopy(reference)
        equalized = equalization.equalize(other, images)
        trial = calibrated(other)
        if refinement.equalize or _error(trial.model, reference, images) < _error(
            done.model, reference, images
        ):
            reference, done = other, replace(trial, equalized=equalized)
    if refinement.learn_rounding:
        parts = rounding.blocks(done.model, rows(images[0], 0, 2))
        with bar("learn rounding", len(parts), progress) as advance:
            done.rounded = rounding.learn_rounding(
                done.model, images, iterations=refinement.iterations, seed=refinement.seed, advance=advance
            )
    if refinement.correct_bias:
        with bar("correct biases", len(step.weights), progress) as advance:
            correct_biases(done.model, reference, images, advance=advance)
    ranges.round_biases(done.model, step)
    return done


@torch.no_grad()
def _error(model: nn.Module, reference: nn.Module, images: Sequence[Inputs]) -> float:
    """Mean squared difference of the results of two networks on `images`."""
    total = torch.zeros((), dtype=torch.float64)
    for batch in images:
        for found, wanted in zip(
            tree_leaves(run(model, batch)), tree_leaves(run(reference, batch)), strict=True
        ):
            if isinstance(found, Tensor) and found.is_floating_point():
                total += (found - wanted).double().square().mean().cpu()
    return float(total)


def example_of(example: Any, images: list[Inputs]) -> Any:
    """`example`, or two of `images` if it is None."""
    if example is not None:
        return example
    if not images:
        raise InputError(
            "example=None", "the network cannot be traced without an input", "pass an example input"
        )
    return rows(images[0], 0, 2)


def commit(model: nn.Module, work: nn.Module, steps: Sequence[BakeStep | FoldStep | QuantizeStep]) -> None:
    """Make `model` what `work` is: a copy of it to which `steps` were done and values given."""
    for step in steps:
        step.apply(model)
        append(model, step)
    model.load_state_dict(work.state_dict())


def calibration_batches(
    model: nn.Module, calibration: Iterable[Any] | Tensor | None, limit: int
) -> list[Inputs]:
    """`limit` images of `calibration`, in batches, on the device of `model`.

    Raises:
        InputError: there are none, or they hold NaN or infinite values.
    """
    if calibration is None:
        raise InputError(
            "calibration=None",
            "the ranges of activations cannot be known without images",
            "pass data.train or a few batches of images, or activations=None",
        )
    tensor = next(model.parameters(), torch.empty(0))
    # no labels see to it that all kinds are among them
    if isinstance(calibration, UnlabelledSplit):
        calibration = varied(model, calibration, limit)
    elif isinstance(calibration, Taught):
        calibration = calibration.varied(limit)
    images = [moved(batch, tensor.device) for batch in images_of(calibration, limit, model=model)]
    images = [batch for batch in images if size(batch)]
    if not images:
        raise InputError("calibration", "it holds no images", "pass data.train or a few batches of images")
    for number, batch in enumerate(images):
        if not all(leaf.isfinite().all() for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)):
            raise InputError(
                f"calibration batch {number}", "it holds NaN or infinite values", "clean the images"
            )
    return images


def planned(
    model: nn.Module,
    example: Any,
    bits: Mapping[str, patterns.Bits],
    *,
    ignore: Sequence[str],
    edges: int | None,
    outputs: bool,
) -> tuple[QuantizeStep, placement.Plan]:
    """Which layers and activations of `model`, folded, are quantized, and where; nothing is calibrated."""
    recorded = trace.record(model, example)
    whole = flow.build(recorded, model)
    layers = placement.layers(whole)
    if not layers:
        raise InputError(
            f"model {type(model).__name__}",
            "it has no convolution or linear layer to quantize",
            "pass a network that has one",
        )
    ignored = patterns.matching("ignore", ignore, layers)
    decoding = {*getattr(plain(model), "decoders", ())} - ignored
    ignored = ignored | decoding
    weight_bits = patterns.bits_of_layers("weights", bits["weights"], layers, lowest=1, edges=edges)
    input_bits = patterns.bits_of_layers("activations", bits["activations"], layers, lowest=2, edges=edges)
    plan = placement.Plan(layers=[layer for layer in layers if layer not in ignored])
    if bits["activations"] is not None:
        plan = placement.plan(flow.build(recorded, model, ignore=ignored), input_bits, outputs=outputs)
    plan.left_out = {**in_float.left_out(whole, ignored), **dict.fromkeys(sorted(decoding), in_float.DECODES)}
    chosen = {layer: count for layer in plan.layers if (count := weight_bits[layer]) is not None}
    activations = [activation_json(p) for p in plan.activations]
    skips = [[*astuple(call), index] for call, index in plan.skips.items()]
    return QuantizeStep(chosen, activations, plan.inputs, plan.input_bits, skips=skips), plan
