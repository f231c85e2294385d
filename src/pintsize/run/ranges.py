"""How activations' ranges are best found for one network: a few ways are tried, the network itself judges."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from ..data import Data
from ..errors import PintsizeError
from ..quant import quantize
from ..tasks import imitate
from ..training import evaluate

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
        found.append((evaluate(trial, judged), -number))
    return dict(WAYS[-max(found)[1]]) if found else {}
