"""A network, in a file or in memory, layer by layer: shape, density, bits, bytes, MACs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import InputError
from ..measure.units import bytes_text, count_text

if TYPE_CHECKING:
    from rich.table import Table


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
class Shown:
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

    def table(self) -> Table:
        """As a rich table: the fuller a cell's colour, the more of the network or of the work is in that layer."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        made = Table(
            title=self.about(),
            title_justify="left",
            title_style="bold",
            show_footer=True,
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for number, (heading, total) in enumerate(zip(HEADINGS, self.total(), strict=True)):
            made.add_column(
                heading, footer=total, justify="left" if number < 2 else "right", no_wrap=True, overflow="ellipsis"
            )
        for cells, heats in zip(self.cells(), self.heats(), strict=True):
            made.add_row(*(Text(cell, style=_style(heat)) for cell, heat in zip(cells, heats, strict=True)))
        return made

    def __rich__(self) -> Table:
        return self.table()

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

    def __str__(self) -> str:
        rows = [HEADINGS, *self.cells(), self.total()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(w) if i < 2 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        def cell(text: str, share: float | None) -> str:
            shade = "" if share is None else f" style='background:rgb(213 94 0 / {0.45 * share:.2f})'"
            return f"<td{shade}>{escape(text)}</td>"

        def row(cells: tuple[str, ...], heat: tuple[float | None, ...]) -> str:
            return f"<tr>{''.join(map(cell, cells, heat))}</tr>"

        head = "".join(f"<th scope='col'>{cell}</th>" for cell in HEADINGS)
        body = "".join(row(cells, heat) for cells, heat in zip(self.cells(), self.heats(), strict=True))
        return (
            f"<table><caption>{escape(self.about())}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody><tfoot>{row(self.total(), (None,) * len(HEADINGS))}</tfoot></table>"
        )


HEADINGS = ("layer", "type", "weight", "density", "bits", "bytes", "MACs")


def show(network: str | os.PathLike[str] | nn.Module, *, model: nn.Module | None = None, example: Any = None) -> Shown:
    """List the layers of a network, in a file or in memory.

    Args:
        network: a file, `.safetensors` (or a plain state dict), `.onnx` or `.pint`, or a module.
        model: the plain network, for a file that is not of `pintsize.models`.
        example: an input batch [B, …], for the MACs; by default that of the file's own input (`.onnx`), or of
            the images that a network of `pintsize.models` is made for.

    Raises:
        InputError: there is no such file, its suffix is another, or it does not fit `model`.
        CorruptFile: it is damaged.
        OperationError: the network does not take `example`.
    """
    from . import tensor_layers

    if isinstance(network, nn.Module):
        return tensor_layers.of_module(network, example)
    file = Path(network)
    if not file.is_file():
        raise InputError(str(file), "there is no such file", "check the path")
    if file.suffix == ".onnx":
        from .onnx_layers import onnx_layers

        layers, shape = onnx_layers(file)
        return Shown(str(file), file.stat().st_size, layers, shape)
    return tensor_layers.of_file(file, model, example)


def _style(share: float | None) -> str:
    """Black on a colour from pale to deep orange, so that it reads on dark and light terminals."""
    if share is None or share < 0.02:
        return ""
    cold, hot = (254, 237, 222), (241, 118, 26)
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(cold, hot, strict=True))
    return f"black on #{red:02x}{green:02x}{blue:02x}"
