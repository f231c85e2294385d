"""Scales with which no result is a matter of rounding errors, so that every runtime computes the same integers.

A result that lies within 10⁻⁵ of the middle between two levels goes up in one runtime and down in another, as each
rounds its float32 factors in its own way, and the layers behind amplify the difference.

An addition (or product) of two quantized values has at most 65,536 results. With most scales some of them lie so near;
changed in the fifth digit, the scale of the result puts all of them elsewhere. The mean of L values has its levels at
n · s_in / L: a scale of the result with which s_in / (s_out · L) is a quotient with an odd denominator has no ties,
like the results of layers, see `quotients`. What else computes integers (the ends of a ReLU6, layers that run several
times, the input) is left as it is.
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
from .quotients import LOWEST, odd_quotients, split

_FAR = 1e-4
"""Steps of the result; float32 errs by 3·10⁻⁵ at 255 steps."""
_SHIFT = 1e-5
_TRIES = 64
_ROUNDS = 3


@torch.no_grad()
def avoid_ties(
    model: nn.Module, step: QuantizeStep, plan: Plan, *, fixed: Collection[str] = ()
) -> dict[str, float]:
    """Change scales of `model`'s activations so that no sum, product, mean or operand of `plan` is near a tie.

    Those of means change by less than 0.4 %, others by less than 0.2 %.

    Done again it changes nothing, but where concatenations tie results to results before them.

    Args:
        model: calibrated.
        step: how it was quantized.
        plan: where.
        fixed: names of quantizers whose scales stay.

    Returns:
        Layer → output scale over input scale, for `odd_quotients`; layers that read and give quantized values.
    """
    for quantizer in convert.quantizers(
        model
    ):  # as its next forward would: training may have pushed it below
        quantizer.after_optimizer_step()
        quantizer.scale.clamp_(min=LEAST)
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
    before = made.scale.clone()
    others = [_results(pair, quantizers) for pair in pairs if not pair.divisors]
    results, grains = torch.cat(others).sort().values if others else None, _grains(pairs, quantizers)
    enough = min([_FAR, *(0.4 * grain / float(before) for grain in grains)])  # of a pool no more can be had
    best, found = -1.0, before
    for scale in _candidates(before, grains):
        made.scale.copy_(scale)
        steps = [_steps_of(pair, made, quantizers).sort().values for pair in pairs if pair.divisors]
        distance = min(_distance(each, 1.0, made) for each in steps) if steps else _FAR
        if results is not None:
            distance = min(distance, _distance(results, float(scale.double()), made))
        if distance > best:
            best, found = distance, scale
        if best >= enough:
            break
    made.scale.copy_(found)
    return not torch.equal(found, before)


def _distance(results: Tensor, scale: float, made: FakeQuantize) -> float:
    """Of the nearest to a middle, in steps of `scale`; those beyond the last levels are cut off either way.

    Args:
        results: rising.
        scale: of `made`; 1 if `results` are in its steps.
        made: whose levels count.
    """
    low, high = made.qmin - int(made.zero_point) - 0.5, made.qmax - int(made.zero_point) + 0.5
    ends = results.new_tensor([(low - _FAR) * scale, (high + _FAR) * scale])
    first, last = torch.searchsorted(results, ends).tolist()
    if first == last:
        return _FAR
    steps = results[first:last] / scale
    return 0.5 - float(steps.sub_(steps.round()).abs_().max())


def _candidates(scale: Tensor, grains: Sequence[float]) -> Iterator[Tensor]:
    """`scale`, those that suit a pool, then those of its stretch of the number line, from it upward.

    They are the same for each of them.
    """
    yield scale
    for grain in grains:
        yield from _quotients(scale, grain)
    width = math.log1p(_TRIES * _SHIFT)
    start = math.floor(math.log(float(scale)) / width) * width
    stretch = [math.exp(start) * (1 + (number + 0.5) * _SHIFT) for number in range(_TRIES)]
    for value in sorted(stretch, key=lambda value: (value < scale, value)):
        yield torch.full_like(scale, value)


def _quotients(scale: Tensor, grain: float) -> Iterator[Tensor]:
    """Scales near `scale` of which `grain` is p / q with q odd, as in `quotients`, the nearest one first."""
    exponent, q = split(torch.tensor(grain, dtype=torch.float64), float(scale))
    first = int(q) - (int(q) - LOWEST) % 8
    for number in sorted(range(first, first + 8, 2), key=lambda number: abs(number - int(q))):
        yield torch.full_like(scale, grain * number / 2.0 ** int(exponent))


def _grains(pairs: Sequence[Pair], quantizers: Mapping[str, FakeQuantize]) -> list[float]:
    """Of what pools read: the part of its scale of which all their means are multiples."""
    found: dict[str, int] = {}
    for pair in pairs:
        if pair.divisors:
            found[pair.one] = math.lcm(found.get(pair.one, 1), *pair.divisors)
    return [float(quantizers[name].scale.double()) / count for name, count in found.items()]


def _steps_of(pair: Pair, made: FakeQuantize, quantizers: Mapping[str, FakeQuantize]) -> Tensor:
    """All means that a pool can give within the levels of `made`, in its steps."""
    step = float(quantizers[pair.one].scale.double() / made.scale.double())
    one = quantizers[pair.one]
    low, high = (end - int(made.zero_point) for end in (made.qmin - 1, made.qmax + 1))
    least, most = (end - int(one.zero_point) for end in (one.qmin, one.qmax))
    ranges = []
    for divisor in pair.divisors:  # a mean is no less than the least of what it is made of
        start = max(math.floor(low * divisor / step), least * divisor)
        end = max(start, min(math.floor(high * divisor / step), most * divisor + 1))
        ranges.append(torch.arange(start, end, dtype=torch.float64) * (step / divisor))
    return torch.cat(ranges)


def _results(pair: Pair, quantizers: Mapping[str, FakeQuantize]) -> Tensor:
    """Everything that a sum, product or operand can be, float64."""
    one = _levels(quantizers[pair.one])
    if pair.other is None:
        return one
    other = _levels(quantizers[pair.other])
    return (one[:, None] * other if pair.product else one[:, None] + other).flatten()


def _levels(quantizer: FakeQuantize) -> Tensor:
    integers = torch.arange(quantizer.qmin, quantizer.qmax + 1, device=quantizer.scale.device)
    return (integers - quantizer.zero_point) * quantizer.scale.detach().double()
