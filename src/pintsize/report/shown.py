"""What is shown of a network: one row a layer, with its shape, density, bits, bytes and MACs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from ..tables import Table, Tabular
from ..units import bytes_text, count_text

HEADINGS = ("layer", "type", "weight", "density", "bits", "bytes", "MACs")


@dataclass(frozen=True)
class ShownLayer:
    """One layer of a file."""

    name: str
    type: str
    shape: tuple[int, ...]
    """Of its weight."""
    density: float
    """Fraction of its weights that are not zero."""
    bits: int
    """Width of a weight: of the integers or codes that stand for it."""
    bytes: int
    """Of all its tensors, the weight packed at its width: weight, bias, scales, codebooks, statistics."""
    macs: int | None
    """Per image; None if the size of the images is not known."""


@dataclass(frozen=True)
class Shown(Tabular):
    """The layers of a network; printed, a plain table; in rich and in notebooks, a heat-coloured one."""

    path: str
    """The file, or the name of a network in memory."""
    file_bytes: int | None
    """None for a network in memory."""
    layers: list[ShownLayer] = field(repr=False)
    image_shape: tuple[int, ...] | None = None
    """[C, H, W] of the image whose MACs are counted; None if it is not known."""
    steps: tuple[str, ...] = ()
    """What was done to the network, oldest first, as its record names it."""

    def about(self) -> str:
        """The line above the table: which network, what was done to it, MACs of which image."""
        told = [Path(self.path).name]
        told += [" → ".join(self.steps)] if self.steps else []
        told += [f"MACs of one {'×'.join(map(str, self.image_shape))} image"] if self.image_shape else []
        return " · ".join(told)

    def cells(self) -> Iterator[tuple[str, ...]]:
        """One row of texts a layer, under `HEADINGS`."""
        for layer in self.layers:
            yield (
                layer.name or "(root)",
                layer.type,
                "×".join(map(str, layer.shape)),
                f"{100 * layer.density:.1f} %",
                str(layer.bits),
                bytes_text(layer.bytes),
                "–" if layer.macs is None else count_text(layer.macs),
            )

    def total(self) -> tuple[str, ...]:
        """The last row: sums, and the size of the file as it lies on disk."""
        weights = sum(prod(layer.shape) for layer in self.layers)
        kept = sum(prod(layer.shape) * layer.density for layer in self.layers)
        size = sum(layer.bytes for layer in self.layers) if self.file_bytes is None else self.file_bytes
        macs = [layer.macs for layer in self.layers if layer.macs is not None]
        return (
            f"{len(self.layers)} layers",
            "",
            count_text(weights),
            f"{100 * kept / max(weights, 1):.1f} %",
            "",
            bytes_text(size) + (" file" if self.file_bytes is not None else ""),
            count_text(sum(macs)) if macs else "–",
        )

    def __rich__(self) -> Table:
        # the fuller a cell's colour, the more of the network or of the work is in that layer
        return Table(HEADINGS, list(self.cells()), self.total(), 2, self.heats(), self.about())

    def heats(self) -> list[tuple[float | None, ...]]:
        """For each cell how hot it is, 0–1; None for cells that have no colour."""
        most_bytes = max((layer.bytes for layer in self.layers), default=0) or 1
        most_macs = max((layer.macs or 0 for layer in self.layers), default=0) or 1
        return [
            (
                None,
                None,
                None,
                layer.density,
                min(layer.bits / 32, 1.0),
                layer.bytes / most_bytes,
                None if layer.macs is None else layer.macs / most_macs,
            )
            for layer in self.layers
        ]
