"""Attention with quantization: where the quantizers are, and how their ranges follow (the report's Alg. 3).

Batch norms are folded first, so that attention scales what is quantized: `w' = w · Â`, per output channel
symmetric with `s = max|w'| / 2^(N-1)`; activations per tensor, whose range is a moving average of what
passes through, begun on calibration images. Gradients go straight through.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from ...data.batches import Inputs, run
from ...graph import trace
from ...quant import FakeQuantize, FoldStep, QuantizeStep, activation_quantizers, quantize, weight_layers
from ...quant.grid.ties import settle
from ...quant.network.flow import build
from ...quant.network.placement import Plan
from ...quant.network.record import replan
from ...quant.ptq.calibrate import calibration_batches
from ...quant.ptq.observers import ExtentObserver, set_weight_range
from ...quant.ptq.ranges import floating_point, rounded_bias
from ...recipe.attention import AttentionOptions
from ...storage.record import record
from ...training import Callback, TrainState
from .sites import first_convolution

if TYPE_CHECKING:
    from .layers import Attended

CALIBRATION_IMAGES = 512
_RANGES = ("scale", "zero_point")
_Extent = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Quantization:
    """How a network is quantized while attention is trained."""

    fold: FoldStep | None
    step: QuantizeStep
    plan: Plan
    """Of all its quantizers; those of a network with fewer channels have the same names."""
    ranges: dict[str, Tensor]
    """The first scales and zero points."""
    extents: dict[str, _Extent]
    """Quantizer of activations → smallest and largest value of the calibration images."""


def plan_quantization(
    model: nn.Module, example: Any, options: AttentionOptions, calibration: Iterable[Any]
) -> Quantization:
    """How `model`, which is unchanged, is quantized."""
    trial = copy.deepcopy(model)
    calibration = calibration_batches(model, calibration, CALIBRATION_IMAGES)
    bits = bits_of(model, example, options)
    quantize(
        trial,
        weights=bits["weights"],
        activations=bits["activations"],
        calibration=calibration,
        method="minmax" if options.ranges == "max" else "mse",
        example=example,
        progress=False,
    )
    done = record(trial)[len(record(model)) :]
    fold = next((step for step in done if isinstance(step, FoldStep)), None)
    step = next(step for step in done if isinstance(step, QuantizeStep))
    with floating_point(trial):
        plan = replan(build(trace.record(trial, example), trial), step)
    return Quantization(fold, step, plan, ranges_of(trial), _extents(trial, calibration))


def bits_of(model: nn.Module, example: Any, options: AttentionOptions) -> dict[str, dict[str, int | None]]:
    """Bits of weights and activations by pattern: the first convolution keeps 8 for its weights and what it reads."""
    first = first_convolution(model, trace.record(model, example)) or ""
    chosen = {"weights": options.weights, "activations": options.activations}
    return {name: {first: 8, "*": bits} for name, bits in chosen.items()}


@torch.no_grad()
def _extents(model: nn.Module, images: Iterable[Inputs]) -> dict[str, _Extent]:
    observers = {}
    for name, quantizer in activation_quantizers(model).items():
        quantizer.observer = observers[name] = ExtentObserver()
    for batch in images:
        run(model, batch)
    return {name: (observer.low, observer.high) for name, observer in observers.items()}


def ranges_of(model: nn.Module) -> dict[str, Tensor]:
    """The scales and zero points of all quantizers, by name of the tensor."""
    return {
        f"{path}.{key}": getattr(module, key).detach().clone()
        for path, module in model.named_modules()
        if isinstance(module, FakeQuantize)
        for key in _RANGES
    }


class FollowRanges(Callback):
    """Keeps the ranges of the quantizers in step with weights and activations while they are trained.

    An activation's range is a moving average of the extent, times the share of the extent that its first range
    covered on the calibration images: all of it with `ranges="max"`, less with `mse`.

    Args:
        attended: its network is quantized, with scales that are no parameters.
        quantization: how.
        options: `ranges` and `range_decay`.
    """

    def __init__(self, attended: Attended, quantization: Quantization, options: AttentionOptions) -> None:
        self._model, self._options = attended.model, options
        self._attended, self._quantization = attended, quantization
        self._activations = activation_quantizers(self._model)
        self._extents = {name: ExtentObserver(decay=options.range_decay) for name in self._activations}
        self._shares: dict[str, _Extent] = {}
        for name, quantizer in self._activations.items():
            extent = self._extents[name]
            extent.low, extent.high = quantization.extents[name]
            extent.count = 1
            ends = zip(quantizer.limits(), quantization.extents[name], strict=True)
            low, high = (
                _share(limit, end) if options.ranges == "mse" else end.new_ones(()) for limit, end in ends
            )
            self._shares[name] = low, high
        self._clips: dict[str, Tensor] = {}

    def on_epoch_start(self, state: TrainState) -> None:  # noqa: ARG002
        """Watch the activations; find how far the largest weights are to be clipped."""
        for name, quantizer in self._activations.items():
            extent, device = self._extents[name], quantizer.scale.device
            extent.low, extent.high = extent.low.to(device), extent.high.to(device)
            quantizer.observer = _WhileTraining(quantizer, extent)
        for name, layer, quantizer in self._weights():
            largest = _largest(quantizer, layer.weight)  # type: ignore[arg-type]
            if self._options.ranges == "max":
                self._clips[name] = torch.full_like(largest, 1 / 2 ** (quantizer.bits - 1))
            else:
                set_weight_range(quantizer, layer.weight.detach(), "mse")  # type: ignore[operator]
                self._clips[name] = quantizer.scale / largest.clamp_min(torch.finfo(largest.dtype).tiny)
        self._set_weights()

    def on_step_end(self, state: TrainState) -> None:
        """Set the ranges for the next forward; those of an epoch's last step are what the network ends with."""
        self._set_weights()
        self._agree()
        for name, quantizer in self._activations.items():
            extent, (low, high) = self._extents[name], self._shares[name]
            if extent.high > extent.low:
                quantizer.set_range(extent.low * low, extent.high * high)
        if state.step % state.steps_per_epoch == 0:
            self._settle()

    def on_epoch_end(self, state: TrainState) -> None:  # noqa: ARG002
        """Watch no longer."""
        for quantizer in self._activations.values():
            quantizer.observer = None

    def _agree(self) -> None:
        """Of several processes, each of which saw a part of the batch, all go on with the extent of the whole."""
        if not (distributed.is_available() and distributed.is_initialized() and self._extents):
            return
        extents = self._extents.values()
        ends = torch.stack([torch.stack([extent.low, -extent.high]) for extent in extents])
        distributed.all_reduce(ends, distributed.ReduceOp.MIN)
        for extent, (low, high) in zip(extents, ends, strict=True):
            extent.low, extent.high = low, -high

    @torch.no_grad()
    def _settle(self) -> None:
        """Give scales and biases the values of the network that would be delivered now: validation is to see these."""
        step, attended = self._quantization.step, self._attended
        factors = [(quantizer, attended.output_factors(name)) for name, _, quantizer in self._weights()]
        scaled = [
            (quantizer, factor.where(factor > 0, 1.0)) for quantizer, factor in factors if factor is not None
        ]
        for quantizer, factor in scaled:
            quantizer.scale.mul_(factor)
        settle(self._model, step, self._quantization.plan)
        for name, layer, _ in self._weights():
            rounded = rounded_bias(self._model, name, layer, step)
            if rounded is None:
                continue
            bias, own = attended.original(f"{name}.bias"), attended.bias_factors(name)
            assert bias is not None
            bias.copy_(rounded if own is None else torch.where(own > 0, rounded / own, bias))
        for quantizer, factor in scaled:
            quantizer.scale.div_(factor)

    def _weights(self) -> Iterable[tuple[str, nn.Module, FakeQuantize]]:
        for name, layer in weight_layers(self._model):
            quantizer = layer._modules["weight_quantizer"]
            assert isinstance(quantizer, FakeQuantize)
            yield name, layer, quantizer

    @torch.no_grad()
    def _set_weights(self) -> None:
        for name, layer, quantizer in self._weights():
            scale = _largest(quantizer, layer.weight) * self._clips[name]  # type: ignore[arg-type]
            # a channel that is gone has no range; any scale gives its zeros
            quantizer.scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))

    def state_dict(self) -> dict[str, Any]:
        """The moving averages."""
        return {name: (extent.low, extent.high, extent.count) for name, extent in self._extents.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the moving averages back."""
        for name, (low, high, count) in state.items():
            device = self._activations[name].scale.device
            extent = self._extents[name]
            extent.low, extent.high, extent.count = low.to(device), high.to(device), count


class _WhileTraining:
    """An observer that does not look while the network is evaluated."""

    def __init__(self, quantizer: FakeQuantize, extent: ExtentObserver) -> None:
        self._quantizer, self._extent = quantizer, extent

    def see(self, x: Tensor) -> None:
        if self._quantizer.training:
            self._extent.see(x)


def _share(limit: Tensor, end: Tensor) -> Tensor:
    """How much of what reaches to `end` a range up to `limit` covers."""
    return torch.where(end == 0, torch.ones_like(end), limit / end).clamp(max=1.0).float()


@torch.no_grad()
def _largest(quantizer: FakeQuantize, weight: Tensor) -> Tensor:
    """`max|w'|` per channel, shaped as the scale."""
    if quantizer.axis < 0:
        return weight.detach().abs().amax()
    return weight.detach().movedim(quantizer.axis, 0).flatten(1).abs().amax(1)


@torch.no_grad()
def set_ranges(model: nn.Module, ranges: Mapping[str, Tensor]) -> None:
    """Give the quantizers of `model` the scales and zero points that `ranges_of` took from another."""
    own = model.state_dict()
    for name, value in ranges.items():
        own[name].copy_(value)
