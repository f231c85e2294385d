"""Pruning by a rule file: the `rules` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ..errors import InputError
from .section import Chosen, Section, section
from .training import RecoverSection


@section(
    "rules", title="Rule file, instead of an amount to prune", place=33, way=True, own=(),
    about="The stages of a rule file, or of the rules that a sensitivity scan gives, instead.",
)  # fmt: skip
class RulesSection(Section):
    """A rule file's stages, each followed by the training of `recover`."""

    text: str | None = None
    """The rules, one a line: regex,sparsity[;sparsity…],importance."""
    max_drop: float | None = None
    """Instead: scan the network, and prune each part as far as it alone loses at most so many points."""
    level: Literal["weight", "filter", "group"] = "group"
    """What is scanned."""
    stages: int = Field(default=1, ge=1)
    """Stages in which the scanned ratios are reached."""
    images: int = Field(default=1000, ge=1)
    """Validation images of the scan."""
    baseline: bool = False
    """Train the dense network on for as many epochs, to compare fairly."""

    @model_validator(mode="after")
    def _one_source(self) -> RulesSection:
        if (self.text is None) == (self.max_drop is None):
            found = "neither is given" if self.text is None else "both are given"
            raise InputError("rules: text or max_drop", found, "write one of them")
        return self

    def check_with(self, recipe: Chosen) -> None:
        """Each cut is followed by an ordinary training."""
        require_regular(recipe.recover)


def require_regular(section: RecoverSection | None) -> None:
    """Raise for a training that does without regularisation, which only a single training can.

    Raises:
        InputError: it does.
    """
    if section is not None and not section.regularize:
        raise InputError(
            "regularize: false after a cut",
            "after each cut the network is trained as usual",
            "keep it for train",
        )
