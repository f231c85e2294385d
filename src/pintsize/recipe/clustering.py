"""Weights that share few values: the `cluster` section."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from .section import Section, section
from .training import TrainSection


@section(
    "cluster", title="Shared values", about="Weights that share few values; left out, each has its own.", place=50,
    own=(),
)  # fmt: skip
class ClusterSection(Section):
    """Each layer's weights get few shared values, which are trained on if there are epochs."""

    k: int | None = Field(default=None, ge=1, le=255)
    """Shared values besides zero; 5 by default."""
    bits: int | None = Field(default=None, ge=1, le=8)
    """Instead of k: as many values as fit codes of so many bits."""
    scope: Literal["layer", "channel", "global"] = "layer"
    """A codebook per layer, per output channel, or one for all."""
    norms: bool = True
    """Batch-norm weights, too."""
    ignore: tuple[str, ...] = ()
    """Layers that stay as they are: names or shell patterns."""
    epochs: int = Field(default=0, ge=0)
    """Epochs in which the shared values are trained on."""
    lr: float = Field(default=1e-4, gt=0)
    """Largest learning rate of these epochs (Adam)."""
    batch_size: int = Field(default=128, ge=1)
    """Images per step of these epochs."""

    @model_validator(mode="after")
    def _one_count(self) -> ClusterSection:
        if self.k is not None and self.bits is not None:
            raise ValueError("k and bits both say how many values there are: write one of them")
        return self

    def sharing(self) -> dict[str, Any]:
        """What `pintsize.cluster` takes."""
        return self.model_dump(exclude={"epochs", "lr", "batch_size"})

    def training(self) -> TrainSection:
        """How the shared values are trained on.

        One's gradient is a sum over up to millions of weights, which plain SGD takes as it is: hence Adam.
        """
        return TrainSection(
            epochs=self.epochs, lr=self.lr, batch_size=self.batch_size, optimizer="adam", weight_decay=0.0
        )
