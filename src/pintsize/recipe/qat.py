"""Training of the quantized network: the `qat` section."""

from __future__ import annotations

from pydantic import Field

from .section import Chosen, section
from .training import RecoverSection


@section(
    "qat", title="Training of the quantized network", place=70, own=("freeze_at", "damping"),
    about="Training of the quantized network; left out, it is calibrated alone. `method: lsq` learns its step sizes.",
)  # fmt: skip
class QatSection(RecoverSection):
    """How the quantized network is trained on; the dense one is its teacher."""

    lr: float = Field(default=0.01, gt=0)
    """Largest learning rate."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Not applied to norms, biases and step sizes."""
    distill_weight: float = Field(default=0.9, ge=0, le=1)
    """Share of the dense network's outputs in the loss."""
    freeze_at: float = Field(default=0.75, ge=0, le=1)
    """Share of the epochs after which batch-norm statistics and ranges stay as they are."""
    damping: float = Field(default=1e-5, ge=0)
    """Weight of the penalty on weights below 4 bits that swing between two levels."""

    def check_with(self, recipe: Chosen) -> None:
        """It trains what `quantize` gives."""
        if recipe.quantize is None or recipe.budget is not None:
            raise ValueError("qat trains the network that quantize gives, and there is none")
