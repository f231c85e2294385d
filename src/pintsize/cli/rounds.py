"""The verb `rounds`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .inputs import Folder, Inputs, Out, Threads
from .verbs import Given, Told, told, verb

Baseline = Annotated[
    bool, typer.Option(help="Train the dense network on for as many epochs, to compare fairly.")
]


@verb(place=33, data="needed", section="rounds", more=("recover",))
def rounds(
    *, inputs: Inputs, given: Given, out: Out = Path("pruned.safetensors"), folder: Folder = None, threads: Threads = 2
) -> Told:  # fmt: skip
    """Prune in rounds by ratios per block, retraining after each; measure every round on its exported file."""
    from ..pruning import prune_rounds
    from ..storage.network_file import check_savable, save

    chosen, training = given.values("rounds"), retrained(given)
    check_savable(out)
    images, network = inputs.images, inputs.network
    found = prune_rounds(
        network, images, **chosen, folder=folder, threads=threads, seed=inputs.seed, **training
    )
    save(network, out)
    return told(
        {"file": out, "drop": found.drop, "rounds": found.rounds},
        found,
        f"{found.told}\nsaved to {out}",
    )


def retrained(given: Given) -> dict[str, Any]:
    """The training after each cut, as keywords."""
    from ..recipe.rules import require_regular
    from ..run.stages.staged import retraining

    section = given.section("recover")
    require_regular(section)
    return retraining(section)
