"""The stages that train in floating point: the dense network first, and what a cut left of it."""

from __future__ import annotations

from typing import Any

from ...recipe.recipe import Recipe
from .stages import CUT, DENSE, PRUNED, Stage, Stages, settings_of, stage, stages_of


@stage
class Train(Stage):
    """`dense.safetensors`."""

    name, place, section = "train", 20, "train"

    def file(self, recipe: Recipe) -> str:
        return DENSE

    def inputs(self, run: Stages) -> Any:
        return [run.origin(), super().inputs(run)]

    def make(self, run: Stages, key: str) -> dict[str, Any]:
        model = run.start()
        history = run.fit(model, self.name, key, run.recipe.train)
        return run.keep(model, DENSE, history=history)


@stage
class Recover(Stage):
    """`pruned.safetensors`, from a cut network."""

    name, place = "recover", 40

    def wanted(self, recipe: Recipe) -> bool:
        return any(one.file(recipe) == CUT for one in stages_of(recipe, without=self))

    def file(self, recipe: Recipe) -> str:
        return PRUNED

    def forms(self, recipe: Recipe, kind: str) -> list[tuple[str, str]]:
        return [(f"{kind} fp32", "pruned")]

    def inputs(self, run: Stages) -> Any:
        return settings_of(run.recovery)

    def make(self, run: Stages, key: str) -> dict[str, Any]:
        model = run.before(self)
        history = run.fit(model, self.name, key, run.recovery, teacher=run.teacher(run.recovery))
        return run.keep(model, PRUNED, history=history)
