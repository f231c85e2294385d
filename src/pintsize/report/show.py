"""A network file, layer by layer: shape, density, bits, bytes and, where the images' size is known, MACs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..errors import InputError
from ..measure.units import bytes_text, count_text

if TYPE_CHECKING:
    from rich.table import Table

_KINDS = {1: "norm", 2: "linear", 3: "conv 1-d", 4: "conv 2-d", 5: "conv 3-d"}


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
    """Width at which its weight is stored."""
    bytes: int
    """Of all its tensors as stored: weight, bias, scales, statistics."""
    macs: int | None
    """Per image; None if the size of the images is not known."""


@dataclass(frozen=True)
class Shown:
    """A file's layers; printed, it is a plain table."""

    path: str
    file_bytes: int
    layers: list[ShownLayer] = field(repr=False)

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
        weights = sum(_count(layer) for layer in self.layers)
        kept = sum(_count(layer) * layer.density for layer in self.layers)
        macs = [layer.macs for layer in self.layers if layer.macs is not None]
        return (
            f"{len(self.layers)} layers",
            "",
            count_text(weights),
            f"{100 * kept / max(weights, 1):.1f} %",
            "",
            f"{bytes_text(self.file_bytes)} file",
            count_text(sum(macs)) if macs else "–",
        )

    def table(self) -> Table:
        """As a rich table: the fuller a cell's colour, the more of the file or of the work is in that layer."""
        from rich.table import Table
        from rich.text import Text

        made = Table(title=Path(self.path).name, title_justify="left", show_footer=True)
        for number, (heading, sum_) in enumerate(zip(HEADINGS, self.total(), strict=True)):
            made.add_column(
                heading,
                footer=sum_,
                justify="left" if number < 2 else "right",
                no_wrap=number > 1,
                overflow="ellipsis",
            )
        for layer, cells, heat in zip(self.layers, self.cells(), self.heats(), strict=True):
            del layer
            made.add_row(*(Text(cell, style=_style(share)) for cell, share in zip(cells, heat, strict=True)))
        return made

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
            shade = "" if share is None else f" style='background:rgb(0 114 178 / {0.45 * share:.2f})'"
            return f"<td{shade}>{escape(text)}</td>"

        def row(cells: tuple[str, ...], heat: tuple[float | None, ...]) -> str:
            return f"<tr>{''.join(map(cell, cells, heat))}</tr>"

        head = "".join(f"<th scope='col'>{cell}</th>" for cell in HEADINGS)
        body = "".join(row(cells, heat) for cells, heat in zip(self.cells(), self.heats(), strict=True))
        return (
            f"<table><caption>{escape(Path(self.path).name)}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody><tfoot>{row(self.total(), (None,) * len(HEADINGS))}</tfoot></table>"
        )


HEADINGS = ("layer", "type", "weight", "density", "bits", "bytes", "MACs")


def show(path: str | os.PathLike[str], *, model: nn.Module | None = None, example: Any = None) -> Shown:
    """Read a network file and list its layers.

    Args:
        path: `.safetensors` (or a plain state dict), `.onnx` or `.pint`.
        model: the plain network, needed with `example`, and for `.pint`, if the file is not of `pintsize.models`.
        example: an input batch, for the MACs; an `.onnx` file knows the size of its input.

    Raises:
        InputError: there is no such file, or its suffix is another.
        CorruptFile: it is damaged.
        OperationError: the network does not take `example`.
    """
    from ..files import load, read_tensors

    file = Path(path)
    if not file.is_file():
        raise InputError(str(file), "there is no such file", "check the path")
    if file.suffix == ".onnx":
        from .onnx_layers import onnx_layers

        layers = onnx_layers(file)
    elif file.suffix == ".pint":
        network = load(file, model=model)
        layers = _layers(network.state_dict(), _module_widths(network), _macs(network, example))
    else:
        tensors, document = read_tensors(file)
        macs = {} if example is None else _macs(load(file, model=model), example)
        layers = _layers(tensors, _record_widths(document), macs)
    return Shown(str(file), file.stat().st_size, layers)


def _layers(
    tensors: Mapping[str, Tensor], widths: Mapping[str, int], macs: Mapping[str, int]
) -> list[ShownLayer]:
    """Tensors gathered by the layer that owns them; those without a weight or bare parameters are none."""
    owned: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, own = name.replace(".weight_quantizer.", ".weight_quantizer/").rpartition(".")
        owned.setdefault(layer, {})[own] = tensor
    found = []
    for layer, parts in owned.items():
        weight = parts.get("weight")
        if weight is None:
            bare = [tensor for tensor in parts.values() if tensor.is_floating_point() and tensor.dim() > 0]
            if not bare:
                continue
            weight = max(bare, key=lambda tensor: tensor.numel())
        bits = widths.get(layer, weight.element_size() * 8)
        stored = sum(t.numel() * t.element_size() for t in parts.values() if t is not weight)
        found.append(
            ShownLayer(
                layer,
                _KINDS.get(weight.dim(), "tensor") if "weight" in parts else "tensor",
                tuple(weight.shape),
                (weight != 0).double().mean().item() if weight.numel() else 0.0,
                bits,
                ceil(weight.numel() * bits / 8) + stored,
                macs.get(layer, 0) if macs else None,
            )
        )
    return found


def _record_widths(document: Mapping[str, Any] | None) -> dict[str, int]:
    widths: dict[str, int] = {}
    for step in (document or {}).get("steps", ()):
        if (
            isinstance(step, Mapping)
            and step.get("kind") == "quantize"
            and isinstance(step.get("weights"), Mapping)
        ):
            widths = {str(layer): int(bits) for layer, bits in step["weights"].items()}
    return widths


def _module_widths(network: nn.Module) -> dict[str, int]:
    quantizers: dict[str, Any] = {
        name: module.weight_quantizer
        for name, module in network.named_modules()
        if hasattr(module, "weight_quantizer")
    }
    return {name: int(quantizer.bits) for name, quantizer in quantizers.items()}


def _macs(network: nn.Module, example: Any) -> dict[str, int]:
    from ..measure import profile

    return {} if example is None else {layer.name: layer.macs for layer in profile(network, example).layers}


def _count(layer: ShownLayer) -> int:
    from math import prod

    return prod(layer.shape)


def _style(share: float | None) -> str:
    """From the terminal's own colour over yellow to red, so that it reads on dark and light."""
    if share is None or share < 0.15:
        return ""
    return "yellow" if share < 0.45 else "bold yellow" if share < 0.75 else "bold red"
