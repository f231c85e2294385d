"""The stage that trains under masks on single weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from ...pruning import Polynomial, Rewind, Sparsify, Staged, one_shot
from ...pruning.weights.schedules import Schedule
from ...recipe.recipe import Recipe
from ...recipe.training import TrainSection
from ...recipe.weights import SparsifySection
from ...training.callbacks import TrainState
from .stages import PRUNED, Stage, Stages, settings_of, stage


@stage
class Sparse(Stage):
    """`pruned.safetensors`, masked."""

    name, place, section = "sparsify", 32, "sparsify"
    kind = "sparse"

    def file(self, recipe: Recipe) -> str:
        return PRUNED

    def forms(self, recipe: Recipe, kind: str) -> list[tuple[str, str]]:
        return [(f"{kind} fp32", "pruned")]

    def packs(self, recipe: Recipe) -> bool:
        return True

    def inputs(self, run: Stages) -> Any:
        return [super().inputs(run), settings_of(run.recovery)]

    def rehearse(self, run: Stages, model: nn.Module) -> None:
        section = self._training(run)
        state = TrainState(
            model, torch.optim.SGD(model.parameters()), torch.device("cpu"), section.epochs, steps_per_epoch=1
        )
        callback_of(run.recipe.sparsify, section.epochs, run.data, run.recipe.seed).on_train_start(state)

    def make(self, run: Stages, key: str) -> dict[str, Any]:
        scratch, section = run.recipe.sparsify.from_scratch, self._training(run)
        model = run.start() if scratch else run.before(self)
        teacher = copy.deepcopy(model) if not scratch and run.recovery.distill else None
        callback = callback_of(run.recipe.sparsify, section.epochs, run.data, run.recipe.seed)
        history = run.fit(model, self.name, key, section, teacher=teacher, callbacks=[callback])
        return run.keep(model, PRUNED, history=history)

    @staticmethod
    def _training(run: Stages) -> TrainSection:
        found: TrainSection = run.recipe.train if run.recipe.sparsify.from_scratch else run.recovery
        return found


def schedule_of(options: SparsifySection, epochs: int) -> Schedule:
    """The schedule that the options describe, for a training of `epochs`."""
    if options.schedule == "polynomial":
        end = options.end if options.end is not None else max(epochs / 2, options.epoch + 1)
        return Polynomial(options.density or 0.0, begin=options.epoch, end=end, every=options.every)
    if options.schedule == "staged":
        return Staged(options.densities)
    if options.schedule == "rewind":
        return Rewind(options.densities, to=options.epoch)
    return one_shot(options.density, epoch=options.epoch)


def callback_of(options: SparsifySection, epochs: int, data: Any, seed: int) -> Sparsify:
    """What removes the weights in a training of `epochs`."""
    return Sparsify(
        schedule_of(options, epochs), options.importance, data=data, scope=options.scope, pattern=options.pattern,
        ignore=options.ignore, min_density=options.min_density, seed=seed,
    )  # fmt: skip
