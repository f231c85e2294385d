"""The weights of a run, read from its safetensors files without building the network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CorruptFile
from .run import Run

if TYPE_CHECKING:
    from torch import Tensor

_FILE = "quantized.safetensors"


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer's weight in floating point, as training left it, and as the integers stand for it."""

    name: str
    bits: int
    before: Tensor
    after: Tensor
    scale: Tensor
    """Step between two levels, of each channel."""


@contextlib.contextmanager
def open_tensors(file: Path) -> Iterator[Any]:
    """An opened safetensors file.

    Raises:
        CorruptFile: it is none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as stored:
            yield stored
    except SafetensorError as error:
        raise CorruptFile(
            str(file), f"it is not a whole safetensors file ({error})", "run its stage again"
        ) from error


def quantized_layers(run: Run) -> list[QuantizedLayer]:
    """The layers that the run's record names as quantized, as `quantized.safetensors` holds them."""
    import torch

    from ..quant.grid.quantizer import FakeQuantize

    widths = _widths(run)
    file = run.path / _FILE
    if not widths or not file.is_file():
        return []
    found = []
    with open_tensors(file) as stored, torch.no_grad():
        names = set(stored.keys())
        for layer, bits in widths.items():
            if not {f"{layer}.weight", f"{layer}.weight_quantizer.scale"} <= names:
                continue
            weight, scale = (
                stored.get_tensor(f"{layer}.weight"),
                stored.get_tensor(f"{layer}.weight_quantizer.scale"),
            )
            axis = (
                0 if weight.shape[0] == len(scale) else 1
            )  # a transposed convolution's channels come second
            quantizer = FakeQuantize(bits, signed=True, channels=len(scale), axis=axis)
            quantizer.scale.copy_(scale)
            found.append(QuantizedLayer(layer, bits, weight, quantizer(weight), scale))
    return found


def _widths(run: Run) -> dict[str, int]:
    """Layer → bits, from the last quantization in the record."""
    steps = (run.record or {}).get("steps")
    widths: dict[str, int] = {}
    for step in steps if isinstance(steps, list) else ():
        if (
            isinstance(step, dict)
            and step.get("kind") == "quantize"
            and isinstance(step.get("weights"), dict)
        ):
            widths = {str(layer): int(bits) for layer, bits in step["weights"].items()}
    return widths
