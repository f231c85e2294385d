"""The stage that prunes in rounds, by ratios per block."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...pruning import Importance, StagedPruning, prune_rounds
from ...pruning.channels.blocks import block_ratios
from ...recipe.recipe import Recipe
from .staged import PrunedInSteps
from .stages import Stages, stage


@stage
class Rounds(PrunedInSteps):
    """`pruned.safetensors`."""

    name, place, section = "rounds", 34, "rounds"

    def on_the_way(self, recipe: Recipe) -> list[tuple[str, str]]:
        """Also each round's network."""
        rounds = [(f"round {k} fp32", f"rounds/round-{k}") for k in range(1, recipe.rounds.rounds)]
        return super().on_the_way(recipe) + rounds

    def rehearse(self, run: Stages, model: nn.Module) -> None:
        block_ratios(model, run.recipe.rounds.ratios)
        Importance(run.recipe.rounds.importance)

    def pruned(self, run: Stages, model: nn.Module, options: dict[str, Any]) -> StagedPruning:
        """All rounds."""
        return prune_rounds(model, run.data, **run.recipe.rounds.model_dump(exclude={"baseline"}), **options)
