"""The verb `fixed-point`."""

from __future__ import annotations

from .inputs import Inputs, Out
from .output import compared
from .verbs import Given, Told, told, verb


@verb(place=42, data="needed", section="fixed_point")
def fixed_point(*, inputs: Inputs, given: Given, out: Out) -> Told:
    """Put a network into fixed point, one range per tensor, calibrated on training images, and save it."""
    from ..quant import fixed_point as round_network
    from ..storage.network_file import check_savable, save
    from ..training import evaluate

    settings = given.values("fixed_point")
    check_savable(out)
    images, network = inputs.images, inputs.network
    before = evaluate(network, images.val)
    calibration = images.train.at_most(settings["calibration_images"], inputs.seed)
    done = round_network(network, **settings, calibration=calibration, example=inputs.example)
    save(network, out)
    drop, text = compared(before, evaluate(network, images.val), images)
    return told({"file": out, **drop, "tensors": done.tensors}, f"{out}: {text}")
