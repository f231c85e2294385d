"""Pruning of channels to an amount: the `prune` section."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from .section import Section, section


@section("prune", title="Pruning", about="Channel pruning; left out, all channels stay.", place=30, way=True)
class PruneSection(Section):
    """Which channels are removed: exactly one of the four amounts."""

    ratio: float | None = Field(default=None, ge=0, lt=1)
    """Fraction of the prunable channels to remove."""
    params: float | None = Field(default=None, gt=0, le=1)
    """Fraction of the network's parameters to keep."""
    macs: float | None = Field(default=None, gt=0, le=1)
    """Fraction of the network's multiply-accumulates to keep."""
    bytes: float | None = Field(default=None, gt=0, le=1)
    """Fraction of the network's bytes to keep."""
    importance: str = "l2"
    """Criterion that ranks channels; the smallest go first."""
    scope: str = "global"
    """`global` ranks the channels of all layers together, `isomorphic` those of layers that are connected
    alike, `local` removes the same share of each layer."""
    round_to: int | Literal["auto"] = "auto"
    """Keep a multiple of so many channels in each layer; `auto` takes what the runtimes like."""
    min_channels: int = Field(default=1, ge=1)
    """Least channels of a layer."""
    ignore: tuple[str, ...] = ()
    """Modules that keep all their channels: names or shell patterns (`layer4.*`)."""

    AMOUNTS: ClassVar[tuple[str, ...]] = ("ratio", "params", "macs", "bytes")

    @model_validator(mode="after")
    def _one_amount(self) -> PruneSection:
        given = [name for name in self.AMOUNTS if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"exactly one of {', '.join(self.AMOUNTS)} says how much to prune, {found}")
        return self
