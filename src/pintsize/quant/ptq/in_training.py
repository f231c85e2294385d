"""Scales that are trained must suit the activations of training, whose norms take the statistics of the batch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from ...data.batches import Inputs
from ...graph.state import training_undone
from ..network import convert
from . import ranges
from .observers import ExtentObserver

FACTOR = 2.0
"""An activation that is so much larger in training is clipped there, and one so much smaller has lost a bit."""


def fit(model: nn.Module, batch: Inputs, constants: Sequence[str]) -> list[str]:
    """Give activations that are `FACTOR` times larger or smaller in training the range that they have there.

    With running statistics that fit the network nothing changes. Those of random weights, or of other images, may be
    off by orders of magnitude: all values of a channel then round to one, and gradients through the next norm explode.

    Args:
        model: quantized and calibrated.
        batch: that the norms take statistics of; the running ones stay.
        constants: names of quantizers whose activation is constant in eval mode.

    Returns:
        Those of `constants` that are so in training, too.
    """
    quantizers = convert.activation_quantizers(model)
    usual, trained = ({name: _Magnitude() for name in quantizers} for _ in range(2))
    ranges.watch(model, quantizers, usual, [batch])
    with training_undone(model), _norms_in_training(model):
        try:
            ranges.watch(model, quantizers, trained, [batch])
        except ValueError:  # a norm that gets one value per channel
            return list(constants)
    still = []
    for name, quantizer in quantizers.items():
        before, now = usual[name].square, trained[name].square
        varies = math.isfinite(now) and trained[name].low < trained[name].high
        if varies and (name in constants or not before / FACTOR**2 <= now <= before * FACTOR**2):
            quantizer.set_range(trained[name].low, trained[name].high)
        elif name in constants:
            still.append(name)
    return still


class _Magnitude(ExtentObserver):
    """The extent, and the mean square: outliers, which the statistics of a small batch cut, tell little."""

    square = 0.0

    def see(self, x: Tensor) -> None:
        super().see(x)
        self.square += (float(x.float().square().mean()) - self.square) / self.count


@contextlib.contextmanager
def _norms_in_training(model: nn.Module) -> Iterator[None]:
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and not m.training]
    for norm in norms:
        norm.training = True
    try:
        yield
    finally:
        for norm in norms:
            norm.training = False
