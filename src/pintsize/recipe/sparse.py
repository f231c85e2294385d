"""The options of a recipe's ways to prune besides channels by a target: masks, rule files, rounds. Checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError, unknown

SCHEDULES = ("one-shot", "polynomial", "staged", "rewind")
LEVELS = ("weight", "filter", "group")


def _option(default: Any, about: str) -> Any:
    return field(default=default, metadata={"help": about})


@dataclass(frozen=True, kw_only=True)
class SparsifyOptions:
    """Single weights go while the network is trained; masks hold them."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 (a recipe refuses keys it does not know)

    density: float | None = _option(None, "Fraction of the weights to keep; null with an N:M pattern.")
    importance: str = _option(
        "magnitude", "magnitude, snip, grasp, synflow, ecs, movement, random, or a registered one."
    )
    scope: str = _option("global", "Rank all weights together, or each layer's (`local`).")
    pattern: str = _option("element", "element, N:M such as 2:4, or blocks such as 4x1.")
    min_density: float = _option(0.0, "Least fraction that each layer keeps.")
    ignore: tuple[str, ...] = _option((), "Layers that stay dense: names or shell patterns.")
    from_scratch: bool = _option(
        False,
        "Train untrained weights with the options of `train`, not the trained ones with those of `recover`.",
    )
    schedule: str = _option("one-shot", "When weights go: one-shot, polynomial, staged, or rewind.")
    epoch: int = _option(
        0, "one-shot: the epoch before which they go; polynomial: the first; rewind: to go back to."
    )
    end: float | None = _option(
        None, "polynomial: epoch at which the density is reached; by default half of them."
    )
    every: int = _option(100, "polynomial: steps between two removals.")
    densities: dict[int, float] = field(
        default_factory=dict, metadata={"help": "staged and rewind: epoch → density."}
    )

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)
        staged = self.schedule in ("staged", "rewind")
        if staged != bool(self.densities):
            cause = "it needs densities" if staged else "densities belong to staged and rewind"
            raise InputError(f"schedule {self.schedule!r}", cause, "write e.g. densities: {1: 0.5, 3: 0.2}")
        if staged and self.density is not None:
            raise InputError("density and densities", "both are given", "leave out density")


@dataclass(frozen=True, kw_only=True)
class RulesOptions:
    """A rule file's stages, each followed by the training of `recover`."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    text: str | None = _option(None, "The rules, one a line: regex,sparsity[;sparsity…],importance.")
    max_drop: float | None = _option(
        None,
        "Instead: scan the network, and prune each part as far as it alone loses at most so many points.",
    )
    level: str = _option("group", "What is scanned: weight, filter or group.")
    stages: int = _option(1, "Stages in which the scanned ratios are reached.")
    images: int = _option(1000, "Validation images of the scan.")
    baseline: bool = _option(False, "Train the dense network on for as many epochs, to compare fairly.")

    def __post_init__(self) -> None:
        if (self.text is None) == (self.max_drop is None):
            found = "neither is given" if self.text is None else "both are given"
            raise InputError("rules: text or max_drop", found, "write one of them")
        if self.level not in LEVELS:
            raise unknown("level", self.level, LEVELS)
        for name, value in (("stages", self.stages), ("images", self.images)):
            if value < 1:
                raise InputError(f"rules: {name}={value}", "it is less than 1", "write 1 or more")


@dataclass(frozen=True, kw_only=True)
class RoundsOptions:
    """Rounds that take a share of each block's filters, each followed by the training of `recover`."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    ratios: list[float] | dict[str, float] = field(
        metadata={"help": "One for each block in order, or layer patterns with theirs."}
    )
    rounds: int = _option(5, "How many.")
    importance: str = _option("l1", "Criterion for channels; the smallest go first.")
    combine: str = _option("max", "For channels that several blocks share: max of their ratios, or compound.")
    baseline: bool = _option(False, "Train the dense network on for as many epochs, to compare fairly.")

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"rounds={self.rounds}", "it is not a number of rounds", "write 1 or more")
        if self.combine not in ("max", "compound"):
            raise unknown("combine", self.combine, ("max", "compound"))
