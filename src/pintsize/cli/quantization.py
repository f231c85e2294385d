"""The verb `quantize`."""

from __future__ import annotations

from .inputs import Inputs, Out
from .output import compared
from .verbs import Given, Told, told, verb


@verb(
    place=40,
    data="needed",
    section="quantize",
    called={"ignore": ("--quantize-ignore", "--ignore")},
)
def quantize(*, inputs: Inputs, given: Given, out: Out) -> Told:
    """Quantize a network, calibrated on training images, and save it."""
    from ..quant import quantize as quantize_network
    from ..storage.network_file import check_savable, save
    from ..tasks.teaching import Taught
    from ..training import evaluate

    settings = given.values("quantize")
    images, network = inputs.images, inputs.network
    check_savable(out)
    before = evaluate(network, images.val)
    count = settings["calibration_images"]
    train = images.train
    # without labels, those that the network tells apart; else class by class
    chosen = (
        train.varied(count, inputs.seed) if isinstance(train, Taught) else train.at_most(count, inputs.seed)
    )
    quantize_network(network, **settings, calibration=chosen, seed=inputs.seed)
    save(network, out)
    drop, text = compared(before, evaluate(network, images.val), images)
    return told({"file": out, **drop}, f"{out}: {text}")
