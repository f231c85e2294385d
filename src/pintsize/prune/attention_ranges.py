"""Attention with quantization: where the quantizers are, and how their ranges follow (the report's Alg. 3).

Batch norms are folded first, so that attention scales what is quantized: `w' = w · Â`, per output channel
symmetric with `s = max|w'| / 2^(N-1)`; activations per tensor, whose range is a moving average of what
passes through, begun on calibration images. Gradients go straight through.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..attention_options import AttentionOptions
from ..quant import FakeQuantize, FoldStep, QuantizeStep, activation_quantizers, quantize, weight_layers
from ..quant.observers import ExtentObserver, set_weight_range
from ..record import record
from ..train import Callback, TrainState

_RANGES = ("scale", "zero_point")


def plan_quantization(
    model: nn.Module, example: Any, options: AttentionOptions, calibration: Iterable[Any]
) -> tuple[FoldStep | None, QuantizeStep, dict[str, Tensor]]:
    """How `model`, which is unchanged, is quantized: the steps, and the first scales and zero points.

    The first convolution keeps 8 bits for its weights and what it reads.
    """
    first = next(path for path, m in model.named_modules() if isinstance(m, nn.modules.conv._ConvNd))
    trial = copy.deepcopy(model)
    quantize(
        trial,
        weights={first: 8, "*": options.weights},
        activations={first: 8, "*": options.activations},
        calibration=calibration,
        method="minmax" if options.ranges == "max" else "mse",
        example=example,
        progress=False,
    )
    done = record(trial)[len(record(model)) :]
    fold = next((step for step in done if isinstance(step, FoldStep)), None)
    step = next(step for step in done if isinstance(step, QuantizeStep))
    return fold, step, ranges_of(trial)


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

    Args:
        model: quantized, with scales that are no parameters.
        options: `ranges` and `range_decay`.
    """

    def __init__(self, model: nn.Module, options: AttentionOptions) -> None:
        self._model, self._options = model, options
        self._activations = activation_quantizers(model) if options.ranges == "max" else {}
        self._extents = {name: ExtentObserver(decay=options.range_decay) for name in self._activations}
        for name, quantizer in self._activations.items():
            low, high = (end.float() for end in quantizer.limits())
            self._extents[name].low, self._extents[name].high, self._extents[name].count = low, high, 1
        self._clips: dict[str, Tensor] = {}

    def on_epoch_start(self, state: TrainState) -> None:  # noqa: ARG002
        """Watch the activations; find how far the largest weights are to be clipped."""
        for name, quantizer in self._activations.items():
            quantizer.observer = _WhileTraining(quantizer, self._extents[name])
        for name, layer, quantizer in self._weights():
            largest = _largest(quantizer, layer.weight)  # type: ignore[arg-type]
            if self._options.ranges == "max":
                self._clips[name] = torch.full_like(largest, 1 / 2 ** (quantizer.bits - 1))
            else:
                set_weight_range(quantizer, layer.weight.detach(), "mse")  # type: ignore[operator]
                self._clips[name] = quantizer.scale / largest.clamp_min(torch.finfo(largest.dtype).tiny)
        self._set_weights()

    def on_step_end(self, state: TrainState) -> None:  # noqa: ARG002
        """Set the ranges for the next forward."""
        self._set_weights()
        for name, quantizer in self._activations.items():
            extent = self._extents[name]
            if extent.high > extent.low:
                quantizer.set_range(extent.low, extent.high)

    def on_epoch_end(self, state: TrainState) -> None:  # noqa: ARG002
        """Watch no longer."""
        for quantizer in self._activations.values():
            quantizer.observer = None

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
