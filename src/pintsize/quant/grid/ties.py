"""Scales with which no result is a matter of rounding errors, so that every runtime computes the same integers.

A result that lies within 10⁻⁵ of the middle between two levels goes up in one runtime and down in another, as each
rounds its float32 factors in its own way, and the layers behind amplify the difference.

An addition (or product) of two quantized values has at most 65,536 results. With most scales some of them lie so near;
changed in the fifth digit, the scale of the result puts all of them elsewhere. For layers see `quotients`. What else
computes integers (average pools, the ends of a ReLU6, layers that run several times, the input) is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..network import convert
from ..network.placement import Pair, Plan
from ..network.record import QuantizeStep
from ..ptq.ranges import input_quantizer
from .quantizer import LEAST, FakeQuantize
from .quotients import odd_quotients

_FAR = 1e-4
"""Steps of the result; float32 errs by 3·10⁻⁵ at 255 steps."""
_SHIFT = 1e-5
_TRIES = 64
_ROUNDS = 3


@torch.no_grad()
def avoid_ties(
    model: nn.Module, step: QuantizeStep, plan: Plan, *, fixed: Collection[str] = ()
) -> dict[str, float]:
    """Change scales of `model`'s activations by less than 0.2 % so that no sum, product or operand of `plan` is near a tie.

    Done again it changes nothing, but where concatenations tie sums to sums before them.

    Args:
        model: calibrated.
        step: how it was quantized.
        plan: where.
        fixed: names of quantizers whose scales stay.

    Returns:
        Layer → output scale over input scale, for `odd_quotients`; layers that read and give quantized values.
    """
    for quantizer in convert.quantizers(model):
        quantizer.scale.clamp_(min=LEAST)  # as its next forward would: training may have pushed it below
    quantizers = convert.activation_quantizers(model)
    for _ in range(_ROUNDS):  # a concatenation may give a sum the scale of a sum before it
        moved = [
            _moved(quantizers[name], operands, quantizers)
            for name, operands in plan.pairs.items()
            if name not in fixed
        ]
        if not any(moved):
            break
    return ratios_of(model, step, plan)


def ratios_of(model: nn.Module, step: QuantizeStep, plan: Plan) -> dict[str, float]:
    """Layer → output scale over input scale, as it is; layers that read and give quantized values."""
    quantizers = convert.activation_quantizers(model)
    ratios: dict[str, float] = {}
    for name, layer in convert.weight_layers(model):
        path, output = input_quantizer(name, layer, step), plan.outputs.get(name)
        source = None if path is None else model.get_submodule(path)
        if isinstance(source, FakeQuantize) and output is not None:
            ratios[name] = float(quantizers[output].scale.double() / source.scale.double())
    return ratios


@torch.no_grad()
def settle(model: nn.Module, step: QuantizeStep, plan: Plan, fixed: Collection[str] = ()) -> None:
    """Give all scales of `model` values without ties; its weights are rounded anew.

    Args:
        model: calibrated.
        step: how it was quantized.
        plan: where.
        fixed: names of activations whose scales stay.
    """
    settle_weights(model, avoid_ties(model, step, plan, fixed=fixed))


@torch.no_grad()
def settle_weights(model: nn.Module, ratios: Mapping[str, float]) -> None:
    """Give the scales of weights values without ties, by the `ratios` of `avoid_ties`; done again it changes nothing."""
    for name, layer in convert.weight_layers(model):
        quantizer = layer._modules[convert.WEIGHT]
        assert isinstance(quantizer, FakeQuantize)
        quantizer.scale.copy_(odd_quotients(quantizer.scale, ratios.get(name)))


def _moved(made: FakeQuantize, pairs: Sequence[Pair], quantizers: Mapping[str, FakeQuantize]) -> bool:
    """Move the scale of `made` if it has to be; whether it was."""
    results = torch.cat([_results(pair, quantizers) for pair in pairs])
    low, high = made.qmin - int(made.zero_point) - 0.5, made.qmax - int(made.zero_point) + 0.5
    best, before = -1.0, made.scale.clone()
    found = before
    for scale in _candidates(before):
        steps = results / scale.double()
        steps = steps[(steps > low - _FAR) & (steps < high + _FAR)]  # the others are cut off either way
        distance = float((steps - steps.floor() - 0.5).abs().min()) if len(steps) else _FAR
        if distance > best:
            best, found = distance, scale
        if best >= _FAR:
            break
    made.scale.copy_(found)
    return not torch.equal(found, before)


def _candidates(scale: Tensor) -> Iterator[Tensor]:
    """`scale`, then those of its stretch of the number line, from it upward; the same stretch for each of them."""
    yield scale
    width = math.log1p(_TRIES * _SHIFT)
    start = math.floor(math.log(float(scale)) / width) * width
    stretch = [math.exp(start) * (1 + (number + 0.5) * _SHIFT) for number in range(_TRIES)]
    for value in sorted(stretch, key=lambda value: (value < scale, value)):
        yield torch.full_like(scale, value)


def _results(pair: Pair, quantizers: Mapping[str, FakeQuantize]) -> Tensor:
    """Everything that the two can give, float64."""
    one = _levels(quantizers[pair.one])
    if pair.other is None:
        return one
    other = _levels(quantizers[pair.other])
    return (one[:, None] * other if pair.product else one[:, None] + other).flatten()


def _levels(quantizer: FakeQuantize) -> Tensor:
    integers = torch.arange(quantizer.qmin, quantizer.qmax + 1, device=quantizer.scale.device)
    return (integers - quantizer.zero_point) * quantizer.scale.detach().double()
