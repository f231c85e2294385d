"""The stages of a run that prune by masks, by rules and in rounds."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...pruning import (
    UNREGULARIZED,
    Importance,
    Polynomial,
    Rewind,
    Rules,
    Sparsify,
    Staged,
    Unregularized,
    one_shot,
)
from ...pruning.channels.blocks import block_ratios
from ...pruning.rules.run import prune_by_rules
from ...pruning.rules.stages import RuleStages
from ...pruning.scans.scan import sensitivity
from ...pruning.staged.rounds import prune_rounds
from ...pruning.staged.staged import StagedPruning
from ...pruning.weights.schedules import Schedule
from ...recipe.recipe import RecoverSection
from ...recipe.sparse import SparsifyOptions
from ...training.callbacks import Callback, TrainState

if TYPE_CHECKING:
    from .stages import Stages


def sparsify(stages: Stages, key: str) -> dict[str, Any]:
    """Train under masks; `pruned.safetensors`."""
    recipe = stages.recipe
    assert recipe.sparsify is not None
    if recipe.sparsify.from_scratch:
        model, section, teacher = stages.start(), recipe.train, None
    else:
        section = recipe.recover or RecoverSection()
        model = copy.deepcopy(stages.model("dense.safetensors"))
        teacher = copy.deepcopy(model) if section.distill else None
    callback = callback_of(recipe.sparsify, section.epochs, stages.data, recipe.seed)
    history = stages.fit(model, "sparsify", key, section, teacher=teacher, callbacks=[callback])
    return stages.keep(model, "pruned.safetensors", history=history)


def rules(stages: Stages, _: str) -> dict[str, Any]:
    """Scan if there is no rule file yet, then its stages; `pruned.safetensors`."""
    options = stages.recipe.rules
    assert options is not None
    model = copy.deepcopy(stages.model("dense.safetensors"))
    folder = stages.folder.path
    if options.text is None:
        assert options.max_drop is not None
        images = stages.data.val.at_most(options.images, stages.recipe.seed)
        scan = sensitivity(
            model, images, level=options.level, example=stages.example, path=folder / "sensitivity.json",
            progress=stages.progress, seed=stages.recipe.seed,
        )  # fmt: skip
        chosen = scan.to_rules(options.max_drop, stages=options.stages)
    else:
        chosen = Rules.parse(options.text, source="rules")
    chosen.save(folder / "net.rules", overwrite=True)
    found = prune_by_rules(
        model, stages.data, chosen, **_staged(stages, options.baseline), folder=folder / "rules"
    )
    return _keep(stages, model, found)


def rounds(stages: Stages, _: str) -> dict[str, Any]:
    """All rounds; `pruned.safetensors`."""
    options = stages.recipe.rounds
    assert options is not None
    model = copy.deepcopy(stages.model("dense.safetensors"))
    given = dataclasses.asdict(options)
    baseline = given.pop("baseline")
    found = prune_rounds(
        model, stages.data, **given, **_staged(stages, baseline), folder=stages.folder.path / "rounds"
    )
    return _keep(stages, model, found)


def rehearse(stages: Stages, model: nn.Module) -> None:
    """Raise for what does not fit the network, on a copy of it that may be changed."""
    recipe = stages.recipe
    if recipe.sparsify is not None:
        section = recipe.train if recipe.sparsify.from_scratch else recipe.recover or RecoverSection()
        optimizer = torch.optim.SGD(model.parameters())
        state = TrainState(model, optimizer, torch.device("cpu"), section.epochs, steps_per_epoch=1)
        callback_of(recipe.sparsify, section.epochs, stages.data, recipe.seed).on_train_start(state)
    if recipe.rules is not None and recipe.rules.text is not None:
        chosen = Rules.parse(recipe.rules.text, source="rules")
        RuleStages(model, chosen, example=stages.example)
    if recipe.rounds is not None:
        block_ratios(model, recipe.rounds.ratios)
        Importance(recipe.rounds.importance)


def schedule_of(options: SparsifyOptions, epochs: int) -> Schedule:
    """The schedule that the options describe, for a training of `epochs`."""
    if options.schedule == "polynomial":
        end = options.end if options.end is not None else max(epochs / 2, options.epoch + 1)
        return Polynomial(options.density or 0.0, begin=options.epoch, end=end, every=options.every)
    if options.schedule == "staged":
        return Staged(options.densities)
    if options.schedule == "rewind":
        return Rewind(options.densities, to=options.epoch)
    return one_shot(options.density, epoch=options.epoch)


def callback_of(options: SparsifyOptions, epochs: int, data: Any, seed: int) -> Sparsify:
    """What removes the weights in a training of `epochs`."""
    return Sparsify(
        schedule_of(options, epochs), options.importance, data=data, scope=options.scope, pattern=options.pattern,
        ignore=options.ignore, min_density=options.min_density, seed=seed,
    )  # fmt: skip


def training_of(section: Mapping[str, Any], data: Any) -> tuple[dict[str, Any], list[Callback]]:
    """A recipe's section of training as options of `pintsize.train` and callbacks: what `regularize` means."""
    settings = {key: value for key, value in section.items() if key != "regularize"}
    if section["regularize"]:
        return settings, []
    return settings | UNREGULARIZED, [Unregularized(data)]


def _staged(stages: Stages, baseline: bool) -> dict[str, Any]:
    """What rounds and rules share: the training of `recover` after each cut; the run measures for itself."""
    section = stages.recipe.recover or RecoverSection()
    options = section.model_dump(exclude={"regularize"})
    if not section.distill:
        options = {k: v for k, v in options.items() if k not in ("distill_weight", "temperature")}
    return {
        **options, "baseline": baseline, "measure": False, "progress": stages.progress, "seed": stages.recipe.seed
    }  # fmt: skip


def _keep(stages: Stages, model: nn.Module, found: StagedPruning) -> dict[str, Any]:
    rows = [dataclasses.asdict(row) for row in found.rounds]
    return stages.keep(model, "pruned.safetensors", rounds=rows, histories=found.histories)
