"""`pintsize.prune_by_rules`: the stages of a rule file with retraining between."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from ...data.batches import example_of
from ...tasks.catalog import with_task
from ..staged.staged import JUDGED_IMAGES, Staged, StagedPruning
from .language import Rules
from .stages import RuleStages


def prune_by_rules(
    model: nn.Module,
    data: Any,
    rules: Rules | str | os.PathLike[str],
    *,
    task: Any = None,
    epochs: int = 5,
    distill: bool = True,
    baseline: bool = False,
    folder: str | os.PathLike[str] | None = None,
    measure: bool = True,
    threads: int = 2,
    progress: bool | None = None,
    seed: int = 0,
    **training: Any,
) -> StagedPruning:
    """Prune `model` in place stage by stage as a rule file says, retraining after each.

    Args:
        model: trained; sparsities are fractions of it as it is.
        data: train fits, val steers; test is read once, at the very end, on the exported files.
        rules: a rule file, or what `Rules.load` and `Sensitivity.to_rules` return.
        task: see `pintsize.train`.
        epochs: of training after each stage.
        distill: retrain with the network as it was at the start as the teacher.
        baseline: also train the dense network for as many epochs as all stages together.
        folder: keeps each stage's network, history and exported file; a run that was stopped goes on from it.
        measure: export each stage, take its bytes, latency and peak memory, and its accuracy on the test images.
        threads: of the runtime that is timed.
        progress: as for `pintsize.train`.
        seed: of training and of random criteria.
        training: further options of `pintsize.train`.

    Returns:
        One entry for each stage.

    Raises:
        InputError: the file or a line of it is wrong, a rule matches nothing, or the structure forbids it.
        IllegalOrder: the network is quantized already.
    """
    chosen = rules if isinstance(rules, Rules) else Rules.load(rules)
    task, data = with_task(task, data, model)
    example = example_of(data.val, model)
    judged = data.train.at_most(JUDGED_IMAGES, seed)
    stages = RuleStages(model, chosen, example=example, data=judged, seed=seed)
    run = Staged(
        model, data, example, {"rules": chosen.text()}, epochs, distill, baseline, training, measure, threads,
        progress, seed,
    )  # fmt: skip
    cuts = [(f"stage {k + 1}", lambda k=k: stages.run(k)) for k in range(chosen.stages)]
    return run.run(cuts, folder)
