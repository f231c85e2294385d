"""Pruning by attention in a run: what can be told before it, and what came of its target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from ...pruning.attention.check import check_attention
from ...recipe.recipe import Recipe

if TYPE_CHECKING:
    from .stages import Stages


def rehearse(stages: Stages, model: nn.Module) -> None:
    """Raise for what does not fit the network, which stays as it is."""
    options = stages.recipe.attention
    if options is not None:
        check_attention(model, stages.example, options)


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
