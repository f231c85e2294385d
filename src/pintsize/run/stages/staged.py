"""What the stages have in common that prune and retrain several times: rules and rounds."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any

from torch import nn

from ...pruning import StagedPruning
from ...recipe.recipe import Recipe
from ...recipe.training import RecoverSection
from ...report.run import LONGER
from .stages import PRUNED, Stage, Stages, settings_of


class PrunedInSteps(Stage):
    """`pruned.safetensors`, and the networks on the way in a folder of the stage's name."""

    kind = "pruned"

    @abstractmethod
    def pruned(self, run: Stages, model: nn.Module, options: dict[str, Any]) -> StagedPruning:
        """Do it to `model`, in place, with the options of training."""

    def file(self, recipe: Recipe) -> str:
        return PRUNED

    def on_the_way(self, recipe: Recipe) -> list[tuple[str, str]]:
        """Forms that are measured besides the last one."""
        if not getattr(recipe, self.name).baseline:
            return []
        return [(LONGER, f"{self.name}/dense-trained-on")]

    def forms(self, recipe: Recipe, kind: str) -> list[tuple[str, str]]:
        return [*self.on_the_way(recipe), (f"{kind} fp32", "pruned")]

    def inputs(self, run: Stages) -> Any:
        return [super().inputs(run), settings_of(run.recovery)]

    def outputs(self, run: Stages) -> list[str]:
        return [*(f"{stem}.safetensors" for _, stem in self.on_the_way(run.recipe)), PRUNED]

    def make(self, run: Stages, key: str) -> dict[str, Any]:
        model = run.before(self)
        options = retraining(run.recovery) | {
            "baseline": getattr(run.recipe, self.name).baseline, "measure": False, "progress": run.progress,
            "seed": run.recipe.seed, "folder": run.folder.path / self.name,
        }  # fmt: skip
        found = self.pruned(run, model, options)
        rows = [dataclasses.asdict(row) for row in found.rounds]
        return run.keep(model, PRUNED, rounds=rows, histories=found.histories)


def retraining(section: RecoverSection) -> dict[str, Any]:
    """Options of the training after each cut."""
    without = {"regularize"} if section.distill else {"regularize", "distill_weight", "temperature"}
    return section.model_dump(exclude=without)
