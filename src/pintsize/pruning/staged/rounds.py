"""`pintsize.prune_rounds`: remove a share of each block's filters, retrain, and again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ...data.batches import example_of
from ...errors import InputError, unknown
from ...graph import channel_groups
from ...storage import record as _record
from ...tasks.catalog import with_task
from ..channels import importance as criteria
from ..channels.blocks import COMBINE, block_ratios, group_ratios
from ..channels.plan import PruneStep
from ..channels.removal import prune
from .staged import JUDGED_IMAGES, Staged, StagedPruning


def prune_rounds(
    model: nn.Module,
    data: Any,
    *,
    task: Any = None,
    ratios: Sequence[float] | Mapping[str, float],
    rounds: int = 5,
    importance: str = "l1",
    combine: str = "max",
    epochs: int = 10,
    distill: bool = True,
    baseline: bool = False,
    folder: str | os.PathLike[str] | None = None,
    measure: bool = True,
    threads: int = 2,
    progress: bool | None = None,
    seed: int = 0,
    **training: Any,
) -> StagedPruning:
    """Prune `model` in place in rounds: in each, every block loses `⌊ratio · filters⌋`, then the network is retrained.

    Li et al., 1608.08710, section 3.3, with the ratios given block by block. Filters that are added to one
    another (a residual stream) are one group, cut once a round.

    Args:
        model: trained.
        data: train fits, val steers; test is read once, at the very end, on the exported files.
        task: see `pintsize.train`.
        ratios: one for each block, in the network's order (residual blocks; convolutions in networks without
            such), or a mapping of layer patterns; of what the round before left.
        rounds: how many.
        importance: criterion for channels; the smallest go first.
        combine: for a group that runs through several blocks: `max`, their largest ratio, or `compound`, what is
            left when each of them takes its share in turn.
        epochs: of training after each cut.
        distill: retrain with the network as it was at the start as the teacher.
        baseline: also train the dense network for as many epochs as all rounds together, to compare fairly.
        folder: keeps each round's network, history and exported file; a run that was stopped goes on from it.
        measure: export each round, take its bytes, latency and peak memory, and its accuracy on the test images.
        threads: of the runtime that is timed.
        progress: as for `pintsize.train`.
        seed: of training and of random criteria.
        training: further options of `pintsize.train`, e.g. `lr=0.01`, `weight_decay=1e-4`.

    Returns:
        Each round's parameters, MACs, accuracies, file size, latency, peak memory and filters.

    Raises:
        InputError: the ratios do not fit the network, a block would vanish, or an option makes no sense.
        IllegalOrder: the network is quantized already.
    """
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise InputError(f"rounds={rounds!r}", "it is not a number of rounds", "pass 1 or more")
    if combine not in COMBINE:
        raise unknown("combine", combine, COMBINE)
    if importance not in criteria.names():
        raise unknown("importance", importance, criteria.names())
    _record.check_order(model, PruneStep)
    given = block_ratios(model, ratios)
    task, data = with_task(task, data, model)
    example = example_of(data.val, model)

    def cut(number: int) -> None:
        chosen = group_ratios(channel_groups(model, example), given, combine=combine)
        if not chosen:
            raise InputError(
                f"round {number}", "no block has a filter left to give", "take fewer rounds or larger ratios"
            )
        judged = data.train.at_most(JUDGED_IMAGES, seed)
        prune(model, example, ratios=chosen, scope="local", importance=importance, data=judged, seed=seed)

    settings = {"ratios": given, "importance": importance, "combine": combine}
    run = Staged(
        model, data, example, settings, epochs, distill, baseline, training, measure, threads, progress, seed
    )  # fmt: skip
    cuts = [(f"round {k}", lambda k=k: cut(k)) for k in range(1, rounds + 1)]
    return run.run(cuts, folder)
