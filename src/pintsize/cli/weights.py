"""The verb `sparsify`: single weights go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .inputs import Checkpoint, Inputs, LogDir, Out
from .output import judged
from .verbs import Given, Told, refuse, told, verb


@verb(
    place=32, data="optional", section="sparsify", more=("train",),
    called={"schedule": ("--when",), "from_scratch": ("--from-scratch",)},
)  # fmt: skip
def sparsify(
    *, inputs: Inputs, given: Given, out: Out = Path("sparse.safetensors"), checkpoint: Checkpoint = None,
    log_dir: LogDir = None,
) -> Told:  # fmt: skip
    """Remove single weights by masks that hold; with --epochs, while the network is trained."""
    from ..pruning import SparsityResult, masks_of
    from ..pruning import sparsify as sparsify_network
    from ..storage.network_file import check_savable, save
    from ..training import evaluate

    how, training = given.section("sparsify"), given.section("train")
    trains = "epochs" in given.names("train") and training.epochs > 0
    refuse(
        "options of training", "nothing is trained", "pass --epochs, or leave them out",
        when=not trains and bool(given.any("train") or how.schedule != "one-shot" or how.epoch or checkpoint or log_dir),
    )  # fmt: skip
    refuse("--epochs", "there is nothing to train on", "pass --data", when=trains and inputs.data is None)
    check_savable(out)
    images, network = inputs.images_if_any, inputs.network
    history: list[Any] = []
    if trains:
        history = _train(inputs, how, training, checkpoint=checkpoint, log_dir=log_dir)
        result = SparsityResult(masks_of(network))
    else:
        result = sparsify_network(
            network, density=how.density, importance=how.importance, data=images, scope=how.scope, pattern=how.pattern,
            ignore=how.ignore, min_density=how.min_density, seed=inputs.seed,
        )  # fmt: skip
    save(network, out)
    found: dict[str, Any] = {"val_accuracy": None}
    text = f"saved to {out}"
    if images is not None:
        found, shown = judged(evaluate(network, images.val), images)
        text += f": {shown}"
    layers = [{"name": one.name, "kept": one.kept, "total": one.total} for one in result.layers]
    values = {
        "file": out,
        "density": result.density,
        **found,
        "layers": layers,
        "history": history,
    }
    return told(values, result, text)


def _train(inputs: Inputs, how: Any, training: Any, **kept: Any) -> list[dict[str, Any]]:
    """Train while the weights go; the history."""
    from ..run.stages.stages import training_of
    from ..run.stages.weights import callback_of
    from ..training import train

    settings, callbacks = training_of(training.model_dump(), inputs.images)
    callbacks.append(callback_of(how, settings["epochs"], inputs.images, inputs.seed))
    return list(
        train(inputs.network, inputs.images, **settings, callbacks=callbacks, seed=inputs.seed, **kept)
    )
