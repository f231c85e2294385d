"""The `quantize` section of a recipe: bits of weights and activations, and how their ranges are found."""

from __future__ import annotations

from pydantic import Field, field_validator

from .bits import BitsOption, read_bits
from .section import Section, section


@section(
    "quantize", title="Quantization", place=60, default=True, renamed={"ignore": "quantize_ignore"},
    about="Quantization; `null` leaves the network in floating point.",
)  # fmt: skip
class QuantizeSection(Section):
    """Bits of weights and activations, and how their ranges are found."""

    weights: BitsOption = 8
    """Bits of the weights, a scale for each output channel; null leaves them float; or by layer pattern, the
    first that matches (in a text layer1.*=4,fc=none), other layers 8."""
    activations: BitsOption = 8
    """Bits of the activations, a scale for each tensor; likewise."""
    method: str = "mse"
    """How ranges are chosen from the calibration images: minmax, ema, percentile, mse or entropy; or best (mse
    with learned rounding and bias correction), or lsq (mse, and training learns the step sizes)."""
    calibration_images: int = Field(default=512, ge=1)
    """Training images that the ranges are taken from."""
    ignore: tuple[str, ...] = ()
    """Modules that stay in floating point: names or shell patterns."""
    edges: int | None = 8
    """Fewest bits of the first and the last layer where one number is given for all; null for no exception."""
    outputs: bool = False
    """Quantize the results of the network, too."""
    reduce_range: bool = False
    """Weights of 7 bits at most, for x86 CPUs without VNNI."""
    equalize: bool = False
    """Scale channels between layers first, so that their ranges agree; method best tries it by itself."""
    learn_rounding: bool = False
    """Learn for each weight below 8 bits whether to round up or down."""
    correct_bias: bool = False
    """Take the mean error of each channel off its bias."""
    iterations: int = Field(default=500, ge=1)
    """Training steps of learned rounding, for each block."""

    _bits = field_validator("weights", "activations", mode="before")(read_bits)
