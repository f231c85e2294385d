"""The stage that prunes by attention, and what came of its target."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from ...pruning import prune_by_attention
from ...pruning.attention.check import check_attention
from ...recipe.recipe import Recipe
from ...recipe.section import values_of
from ..forms import bits_label
from .stages import CUT, QUANTIZED, Stage, Stages, delete, stage


@stage
class Attention(Stage):
    """The cut network, not yet recovered; with bits, the quantized one."""

    name, place, section = "attention", 31, "attention"
    kind = "pruned"

    def file(self, recipe: Recipe) -> str:
        return CUT if recipe.attention.weights is None else QUANTIZED

    def forms(self, recipe: Recipe, kind: str) -> list[tuple[str, str]]:
        bits = recipe.attention
        if bits.weights is None:
            return []
        return [(f"{kind} {bits_label(bits.weights, bits.activations, both=True)}", "quantized")]

    def packs(self, recipe: Recipe) -> bool:
        return recipe.attention.weights is not None

    def inputs(self, run: Stages) -> Any:
        return values_of(run.recipe.attention)

    def rehearse(self, run: Stages, model: nn.Module) -> None:
        check_attention(model, run.example, run.recipe.attention)

    def make(self, run: Stages, key: str) -> dict[str, Any]:
        options = dataclasses.replace(run.recipe.attention, seed=run.recipe.seed)
        model, mine = run.before(self), run.checkpoint(self.name, key)
        found = prune_by_attention(
            model,
            run.data,
            example=run.example,
            checkpoint=mine,
            csv=run.folder.path / "attention.csv",
            log_dir=run.folder.path / "tensorboard" / "attention",
            progress=run.progress,
            **dataclasses.asdict(options),
        )
        delete(mine)
        cost = {"before": dict(found.plan.before), "after": dict(found.plan.after), "notes": [found.reason]}
        history, error = list(found.history), found.realisation.error
        return run.keep(model, self.file(run.recipe), history=history, error=error, **cost)


def outcome(recipe: Recipe, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """What attention left, and whether that was the target; from the results of the stages.

    Returns:
        `target` and `left`, both fractions of the parameters; `met`, None without a target; the `reason` why the
        training ended; and the `remedy` for a target that was missed. None for a recipe without attention.
    """
    options, result = recipe.attention, results.get("attention")
    if options is None or result is None:
        return None
    left = result["after"]["params"] / result["before"]["params"]
    met = None if options.target is None else left <= options.target
    reason, remedy = str(result["notes"][0]), None
    if met is False:
        remedy = "allow more attention_epochs, or raise attention_weight or attention_lr"
        if options.max_drop is not None and result["history"][-1]["params"] < left:  # it went back
            reason, remedy = (
                f"fewer would lose more than {options.max_drop:g} points",
                "allow a larger max_drop",
            )
    return {"target": options.target, "left": left, "met": met, "reason": reason, "remedy": remedy}
