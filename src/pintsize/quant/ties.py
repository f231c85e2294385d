"""Scales with which no result is a matter of rounding errors, so that every runtime computes the same integers.

A result that lies within 10⁻⁵ of the middle between two levels goes up in one runtime and down in another, as each
rounds its float32 factors in its own way, and the layers behind amplify the difference.

An addition (or product) of two quantized values has at most 65,536 results. With most scales some of them lie so near;
changed in the fifth digit, the scale of the result puts all of them elsewhere.

A layer's result is n · m levels, n an integer and `m = weight scale · input scale / output scale`. If m = p / q with q
odd, none lies nearer than 1 / (2q) to a middle k + ½, whatever n is: 2·n·p is even and q·(2k + 1) odd.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from . import convert
from .placement import Pair, Plan
from .quantizer import FakeQuantize
from .ranges import input_quantizer
from .record import QuantizeStep

_FAR = 1e-4
"""Steps of the result; float32 errs by 3·10⁻⁵ at 255 steps."""
_SHIFT = 1e-5
_TRIES = 64
_ROUNDS = 3
_FINEST = 256
"""The least q, that of a layer's largest scale: scales change by less than 0.4 %."""
_LARGEST = 2**24
"""Of the q of channels that are next to nothing beside others of their layer."""


def odd_quotients(scale: Tensor, ratio: float | None) -> Tensor:
    """`scale`, changed by less than 0.4 %, so that no result of its layer lies near a tie.

    The scales become quotients of one number and odd integers, which `.pint` files store instead.

    Args:
        scale: of the weights.
        ratio: output scale over input scale; None if the layer reads or gives floats: 8 significant bits are kept.
    """
    largest = float(scale.max())
    if ratio is None or not 0 < largest < math.inf:
        return scale.bfloat16().to(scale.dtype)
    base = torch.tensor(math.ceil(_FINEST * largest / ratio) * ratio, dtype=torch.float32).double()
    exact = base / scale.detach().double().cpu()
    q = 2 * torch.round((exact - 1) / 2) + 1
    return torch.where(q < _LARGEST, base / q, base / _LARGEST).to(scale)


@torch.no_grad()
def avoid_ties(model: nn.Module, step: QuantizeStep, plan: Plan) -> dict[str, float]:
    """Raise scales of `model`'s activations by less than 0.2 % so that no sum or product of `plan` is near a tie.

    Args:
        model: calibrated.
        step: how it was quantized.
        plan: where.

    Returns:
        Layer → output scale over input scale, for `odd_quotients`; layers that read and give quantized values.
    """
    quantizers = convert.activation_quantizers(model)
    for _ in range(_ROUNDS):  # a concatenation may give a sum the scale of a sum before it
        moved = [_moved(quantizers[name], operands, quantizers) for name, operands in plan.pairs.items()]
        if not any(moved):
            break
    ratios: dict[str, float] = {}
    for name, layer in convert.weight_layers(model):
        path, output = input_quantizer(name, layer, step), plan.outputs.get(name)
        source = None if path is None else model.get_submodule(path)
        if isinstance(source, FakeQuantize) and output is not None:
            ratios[name] = float(quantizers[output].scale.double() / source.scale.double())
    return ratios


@torch.no_grad()
def settle(model: nn.Module, step: QuantizeStep, plan: Plan) -> None:
    """Give all scales of `model`, calibrated just now, values without ties."""
    ratios = avoid_ties(model, step, plan)
    for name, layer in convert.weight_layers(model):
        quantizer = layer._modules[convert.WEIGHT]
        assert isinstance(quantizer, FakeQuantize)
        quantizer.scale.copy_(odd_quotients(quantizer.scale, ratios.get(name)))


def _moved(made: FakeQuantize, pairs: Sequence[Pair], quantizers: Mapping[str, FakeQuantize]) -> bool:
    """Move the scale of `made` if it has to be; whether it was."""
    results = torch.cat([_results(pair, quantizers) for pair in pairs])
    low, high = made.qmin - int(made.zero_point) - 0.5, made.qmax - int(made.zero_point) + 0.5
    best, found, before = -1.0, made.scale.clone(), made.scale.clone()
    for attempt in range(_TRIES):
        scale = before * (1 + attempt * _SHIFT)
        steps = results / scale.double()
        steps = steps[(steps > low - _FAR) & (steps < high + _FAR)]  # the others are cut off either way
        distance = float((steps - steps.floor() - 0.5).abs().min()) if len(steps) else _FAR
        if distance > best:
            best, found = distance, scale
        if best >= _FAR:
            break
    made.scale.copy_(found)
    return not torch.equal(found, before)


def _results(pair: Pair, quantizers: Mapping[str, FakeQuantize]) -> Tensor:
    """Everything that the two can give, float64."""
    one, other = (_levels(quantizers[name]) for name in (pair.one, pair.other))
    return (one[:, None] * other if pair.product else one[:, None] + other).flatten()


def _levels(quantizer: FakeQuantize) -> Tensor:
    integers = torch.arange(quantizer.qmin, quantizer.qmax + 1, device=quantizer.scale.device)
    return (integers - quantizer.zero_point) * quantizer.scale.detach().double()
