"""The stage that removes channels to an amount."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...pruning import PruningPlan, prune
from ...recipe.channels import PruneSection
from ...recipe.recipe import Recipe
from .stages import CUT, Stage, Stages, stage


@stage
class Prune(Stage):
    """The cut network, not yet recovered."""

    name, place, section = "prune", 30, "prune"
    kind = "pruned"

    def file(self, recipe: Recipe) -> str:
        return CUT

    def rehearse(self, run: Stages, model: nn.Module) -> None:
        cut(run, model, run.recipe.prune)

    def make(self, run: Stages, key: str) -> dict[str, Any]:
        model = run.before(self)
        plan = cut(run, model, run.recipe.prune)
        cost = {"before": dict(plan.before), "after": dict(plan.after), "notes": list(plan.notes)}
        return run.keep(model, CUT, **cost)


def cut(run: Stages, model: nn.Module, section: PruneSection) -> PruningPlan:
    """Remove what `section` says from `model`, in place."""
    given = {key: value for key, value in section.model_dump().items() if value is not None}
    return prune(model, run.example, **given, data=run.some_training_images(), seed=run.recipe.seed)
