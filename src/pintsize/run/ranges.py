"""How activations' ranges are best found for one network: a few ways are tried, the network itself judges."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from ..data import Data
from ..data.batches import run
from ..errors import PintsizeError
from ..quant import quantize
from ..tasks import imitate
from ..tasks.task import relative_errors
from ..tasks.teaching import plain

WAYS: tuple[dict[str, Any], ...] = (
    {"method": "mse"},
    {"method": "mse", "correct_bias": True},
    {"method": "percentile", "correct_bias": True},
)
"""None of them is the best for every network: on a detector the last has half the error of the first, on a small classifier
with gates more than twice as much."""
_IMAGES = 64


def best_ranges(network: nn.Module, images: Data) -> dict[str, Any]:
    """Of `WAYS` the one with which the quantized network is most like the dense one, on validation images.

    It takes a calibration of 64 images and as many images through the network for each.

    Args:
        network: not changed.
        images: targets, if it has any, do not count.
    """
    taught = imitate(images, network)
    calibration, judged = taught.train.at_most(_IMAGES), taught.val.at_most(_IMAGES)
    found: list[tuple[float, int]] = []
    for number, way in enumerate(WAYS):
        trial = copy.deepcopy(network)
        try:
            quantize(trial, calibration=calibration, progress=False, **way)
        except PintsizeError:  # the run itself will meet it, and say so
            continue
        found.append((_error(trial, judged), number))
    return dict(WAYS[min(found)[1]]) if found else {}


@torch.no_grad()
def _error(network: nn.Module, judged: Any) -> float:
    """Mean relative error of the outputs: finer than decisions, of which few images have few."""
    errors = [
        relative_errors(plain(run(network, inputs)), plain(targets)) for inputs, targets in judged.batches(8)
    ]
    return float(torch.cat(errors).mean())
