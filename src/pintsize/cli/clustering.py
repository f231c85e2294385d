"""The verb `cluster`: weights share few values."""

from __future__ import annotations

from typing import Any

from .inputs import Inputs, Out
from .output import compared
from .verbs import Given, Told, refuse, told, verb


@verb(place=41, data="optional", section="cluster")
def cluster(*, inputs: Inputs, given: Given, out: Out) -> Told:
    """Give each layer's weights few shared values, train those on request, and save the network."""
    from ..quant import cluster as cluster_weights
    from ..run.stages.stages import training_of
    from ..storage.network_file import check_savable, save
    from ..training import evaluate, train
    from ..units import bytes_text

    section = given.section("cluster")
    refuse(
        f"--epochs {section.epochs}", "there are no images to train on", "pass --data",
        when=bool(section.epochs) and inputs.data is None,
    )  # fmt: skip
    check_savable(out)
    images, network = inputs.images_if_any, inputs.network
    before = None if images is None else evaluate(network, images.val)
    done = cluster_weights(network, **section.sharing())
    if section.epochs and images is not None:
        settings, _ = training_of(section.training().model_dump(), images)
        train(network, images, **settings, seed=inputs.seed)
    save(network, out)
    result: dict[str, Any] = {"file": out, "bytes": done.bytes, "layers": done.layers}
    text = f"{out}: {len(done.layers)} layers, {bytes_text(done.bytes)} of codebooks and codes"
    if images is not None and before is not None:
        drop, compared_text = compared(before, evaluate(network, images.val), images)
        result, text = result | drop, f"{text}\n{compared_text}"
    return told(result, text)
