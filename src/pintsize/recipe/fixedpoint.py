"""Fixed point: the `fixed_point` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .section import Chosen, Section, section


@section(
    "fixed_point", title="Fixed point", place=61, own=(),
    about="Fixed point, instead of `quantize`: one range per tensor; simulated, the file is in floating point.",
)  # fmt: skip
class FixedPointSection(Section):
    """Parameters, activations and batch norms in few bits each."""

    weights: int | None = 8
    """Bits of weights and biases, 2 to 16, or 32; null leaves them float."""
    activations: int | None = 8
    """Bits of activations; null leaves them float."""
    norm: int | None = 10
    """Bits of batch norms' factors and shifts; null leaves them float."""
    mode: Literal["linear", "minmax", "log", "tanh"] = "linear"
    """How levels are laid out."""
    overflow_rate: float = 0.0
    """Share of a tensor's values that may lie beyond its range."""
    calibration_images: int = Field(default=512, ge=1)
    """Training images that the ranges are taken from."""
    ignore: tuple[str, ...] = ()
    """Layers that stay in floating point: names or shell patterns."""

    def check_with(self, recipe: Chosen) -> None:
        """A network is quantized in one way."""
        if recipe.quantize is not None or recipe.budget is not None:
            raise ValueError("fixed_point stands instead of quantize: write quantize: null, and no budget")
        if recipe.attention is not None and recipe.attention.weights is not None:
            raise ValueError("attention with weights and activations gives a quantized network already")
