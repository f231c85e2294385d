"""What may be asked of an export, the same for every file format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..storage.record import origin
from ..tables import Table, Tabular
from ..units import bytes_text


@dataclass(frozen=True)
class ExportInfo(Tabular):
    """What was written."""

    path: Path
    format: str
    bytes: int
    input_shape: tuple[int | None, ...]
    """Of the first input; None is a dimension left open."""
    opset: int | None = None
    """ONNX only."""
    details: dict[str, Any] = field(default_factory=dict)
    """What only this format has to tell, JSON-able."""

    def __rich__(self) -> Table:
        """All that is known of the file, a line each."""
        rows = [
            ("format", self.format),
            ("size", bytes_text(self.bytes)),
            ("input", "×".join("any" if size is None else str(size) for size in self.input_shape)),
            *([("opset", str(self.opset))] if self.opset is not None else []),
            *((key.replace("_", " "), str(value)) for key, value in self.details.items()),
        ]
        return Table(("written", str(self.path)), rows)


@dataclass(frozen=True)
class Options:
    """The keyword arguments of `export`, checked."""

    example: Any = None
    opset: int | None = None
    dynamic_batch: bool = True
    classes: Sequence[str] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    include_normalization: bool = False
    include_softmax: bool = False
    licence: str | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise InputError("mean and std", "one of them is missing", "pass both or neither")
        if self.mean is not None and self.std is not None:
            if len(self.mean) != len(self.std):
                raise InputError(
                    "mean and std",
                    f"they have {len(self.mean)} and {len(self.std)} channels",
                    "pass one number per channel in each",
                )
            if not all(value > 0 for value in self.std):
                raise InputError(
                    f"std={tuple(self.std)}", "a standard deviation must be positive", "pass the data set's"
                )
        if self.include_normalization and self.mean is None:
            raise InputError(
                "include_normalization=True", "mean and std are not given", "pass mean= and std="
            )

    def args(self, model: nn.Module) -> tuple[Any, ...]:
        """Inputs to trace `model` with.

        Raises:
            InputError: there is no example, and the model does not say what it takes.
        """
        from ..graph.trace import as_args

        if self.example is not None:
            return as_args(self.example)
        shape = known_input_shape(model)
        if shape is None:
            raise InputError(
                f"export of {type(model).__name__}",
                "its input shape is not known",
                "pass example=, a batch of images, e.g. torch.randn(1, 3, 224, 224)",
            )
        return (torch.zeros(shape),)


def known_input_shape(model: nn.Module) -> tuple[int, ...] | None:
    """Shape of one image batch that a network from `pintsize.models` takes; None for others."""
    made = origin(model)
    if made is None:
        return None
    options = made["options"]
    size = options.get("image_size") or (32 if options.get("stem") == "small" else 224)
    return (1, int(options.get("in_channels", 3)), size, size)


class Deployed(nn.Module):
    """A network with its input normalisation and its softmax inside.

    Takes images in [0, 1] if it normalises; gives probabilities if it has a softmax.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, model: nn.Module, options: Options) -> None:
        super().__init__()
        self.model = model
        self.softmax = options.include_softmax
        for name, values in (("mean", options.mean), ("std", options.std)):
            inside = options.include_normalization and values is not None
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1) if inside else None)

    def forward(self, images: Tensor, *more: Any) -> Tensor:
        """Normalise, run the network, normalise its output."""
        if self.mean is not None and self.std is not None:
            images = (images - self.mean) / self.std
        output: Tensor = self.model(images, *more)
        return torch.softmax(output, 1) if self.softmax else output
