"""The stage that prunes by a rule file, or by the rules that a scan gives."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...pruning import Rules, RuleStages, StagedPruning, prune_by_rules, sensitivity
from .staged import PrunedInSteps
from .stages import Stages, stage


@stage
class ByRules(PrunedInSteps):
    """`pruned.safetensors`; the rules in `net.rules`."""

    name, place, section = "rules", 33, "rules"

    def rehearse(self, run: Stages, model: nn.Module) -> None:
        if run.recipe.rules.text is not None:
            RuleStages(model, Rules.parse(run.recipe.rules.text, source="rules"), example=run.example)

    def pruned(self, run: Stages, model: nn.Module, options: dict[str, Any]) -> StagedPruning:
        """Scan if there is no rule file yet, then its stages."""
        section, folder = run.recipe.rules, run.folder.path
        if section.text is None:
            images = run.data.val.at_most(section.images, run.recipe.seed)
            scan = sensitivity(
                model, images, level=section.level, example=run.example, path=folder / "sensitivity.json",
                progress=run.progress, seed=run.recipe.seed,
            )  # fmt: skip
            chosen = scan.to_rules(section.max_drop, stages=section.stages)
        else:
            chosen = Rules.parse(section.text, source="rules")
        chosen.save(folder / "net.rules", overwrite=True)
        return prune_by_rules(model, run.data, chosen, **options)
