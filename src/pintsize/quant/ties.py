"""Scales with which a sum of two 8-bit values is never a matter of rounding errors.

An addition (or product) of two quantized values has at most 65,536 results. One that lies within 10⁻⁵ of the middle
between two levels goes up in one runtime and down in another, as each rounds its float32 factors in its own way; and
if that pair of values is a frequent one, every image meets it and the layers behind amplify the difference. With most
scales some pair lies so near; changed in the fifth digit, the scale of the result puts all of them elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from . import convert
from .placement import Pair
from .quantizer import FakeQuantize

_FAR = 1e-4
"""Steps of the result; float32 errs by 3·10⁻⁵ at 255 steps."""
_SHIFT = 1e-5
_TRIES = 64
_ROUNDS = 3


@torch.no_grad()
def avoid_ties(model: nn.Module, pairs: Mapping[str, Sequence[Pair]]) -> None:
    """Raise scales of `model`'s activations by less than 0.2 % so that no result of `pairs` is near a tie.

    Args:
        model: calibrated.
        pairs: quantizer of the results → what is added or multiplied to give them, in the order of the forward.
    """
    quantizers = convert.activation_quantizers(model)
    for _ in range(_ROUNDS):  # a concatenation may give a sum the scale of a sum before it
        moved = [_moved(quantizers[name], operands, quantizers) for name, operands in pairs.items()]
        if not any(moved):
            break


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
