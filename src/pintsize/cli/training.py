"""The verb `train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from .inputs import Checkpoint, Inputs, LogDir, Out
from .output import judged
from .verbs import Given, Told, told, verb


@verb(place=20, data="needed", section="train")
def train(
    *, inputs: Inputs, given: Given, out: Out = Path("model.safetensors"),
    teacher: Annotated[
        Path | None, typer.Option(help="A .safetensors file of a network whose outputs are learned, too.")
    ] = None,
    distill_weight: Annotated[float, typer.Option(help="Share of the teacher in the loss.")] = 0.5,
    temperature: Annotated[float, typer.Option(help="Softens the outputs of teacher and student.")] = 4.0,
    checkpoint: Checkpoint = None, log_dir: LogDir = None,
) -> Told | None:  # fmt: skip
    """Train a network and save it."""
    from ..run.stages.stages import training_of
    from ..storage.network_file import check_savable, load, save
    from ..training import evaluate
    from ..training import train as train_network

    settings = given.values("train")
    taught_by = None if teacher is None else load(teacher)
    images, network = inputs.taught_by(taught_by), inputs.network
    check_savable(out)
    options, callbacks = training_of(settings, images)
    history = train_network(
        network,
        images,
        **options,
        callbacks=callbacks,
        seed=inputs.seed,
        teacher=taught_by,
        distill_weight=distill_weight,
        temperature=temperature,
        checkpoint=checkpoint,
        log_dir=log_dir,
    )
    if os.environ.get("RANK", "0") != "0":  # torchrun started several: all hold the same network
        return None
    save(network, out)
    values, text = judged(evaluate(network, images.val), images)
    return told(
        {"file": out, **values, "history": list(history)},
        f"{out}: {text}",
    )
