"""Pruning in rounds: the `rounds` section."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from .numbers import by_pattern
from .rules import require_regular
from .section import Chosen, Section, section


@section(
    "rounds", title="Rounds, instead of an amount to prune", place=34, way=True, own=("ratios", "rounds"),
    about="Rounds with ratios per block, instead.",
)  # fmt: skip
class RoundsSection(Section):
    """Rounds that take a share of each block's filters, each followed by the training of `recover`."""

    ratios: list[float] | dict[str, float]
    """Removed share of each block in order, 0.1,0.2,…, or of layer patterns, layer1.*=0.1,…"""
    rounds: int = Field(default=5, ge=1)
    """How many."""
    importance: str = "l1"
    """Criterion for channels; the smallest go first."""
    combine: Literal["max", "compound"] = "max"
    """For channels that several blocks share: the largest of their ratios, or all of them one after the other."""
    baseline: bool = False
    """Train the dense network on for as many epochs, to compare fairly."""

    @field_validator("ratios", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return by_pattern("ratios", value) if isinstance(value, str) else value

    def check_with(self, recipe: Chosen) -> None:
        """Each cut is followed by an ordinary training."""
        require_regular(recipe.recover)
