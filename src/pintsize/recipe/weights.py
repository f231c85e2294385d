"""Masks on single weights: the `sparsify` section."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ..errors import InputError
from .section import Section, section


@section(
    "sparsify", title="Masks on single weights, instead of an amount to prune", place=32, way=True,
    about="Masks on single weights, instead.", own=("density", "densities", "pattern", "min_density", "from_scratch"),
)  # fmt: skip
class SparsifySection(Section):
    """Single weights go while the network is trained; masks hold them."""

    density: float | None = None
    """Fraction of the weights to keep; null with an N:M pattern."""
    importance: str = "magnitude"
    """magnitude, snip, grasp, synflow, ecs, movement, random, or a registered one."""
    scope: str = "global"
    """Rank all weights together, or each layer's (`local`)."""
    pattern: str = "element"
    """element, N:M such as 2:4, or blocks such as 4x1."""
    min_density: float = 0.0
    """Least fraction that each layer keeps."""
    ignore: tuple[str, ...] = ()
    """Layers that stay dense: names or shell patterns."""
    from_scratch: bool = False
    """Train untrained weights with the options of `train`, not the trained ones with those of `recover`."""
    schedule: Literal["one-shot", "polynomial", "staged", "rewind"] = "one-shot"
    """When weights go."""
    epoch: int = 0
    """one-shot: the epoch before which they go; polynomial: the first; rewind: to go back to."""
    end: float | None = None
    """polynomial: epoch at which the density is reached; by default half of them."""
    every: int = 100
    """polynomial: steps between two removals."""
    densities: dict[int, float] = Field(default_factory=dict)
    """staged and rewind: epoch → density, in a text 1:0.5,3:0.2."""

    @field_validator("densities", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            pairs = [part.split(":") for part in value.split(",")]
            return {int(epoch): float(density) for epoch, density in pairs}
        except ValueError:
            raise InputError(
                f"densities {value!r}", "it is no list of epoch:density", "write e.g. 1:0.5,3:0.2"
            ) from None

    @model_validator(mode="after")
    def _one_kind_of_density(self) -> SparsifySection:
        staged = self.schedule in ("staged", "rewind")
        if staged != bool(self.densities):
            cause = "it needs densities" if staged else "densities belong to staged and rewind"
            raise InputError(f"schedule {self.schedule!r}", cause, "write e.g. densities: {1: 0.5, 3: 0.2}")
        if staged and self.density is not None:
            raise InputError("density and densities", "both are given", "leave out density")
        return self
