"""What may be asked of an export, the same for every file format."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..models import outside
from ..models.onnx.program import Program
from ..models.onnx.trials import example_of
from ..storage.record import origin
from ..storage.wrapped import plain
from ..tables import Table, Tabular
from ..units import bytes_text

DIMENSIONS = ("batch", "", "height", "width")
"""Of an input [B, C, H, W]: those with a name may be left open."""
_OPEN = frozenset(filter(None, DIMENSIONS))


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
    checked: str = "not run"
    """The runtime that the file was run in before it was given its name; "not run" with `check=False` or without the
    extra that the runtime comes with."""
    difference: float | None = None
    """Largest difference of an output from the simulation's, over the largest value of that output."""

    def __rich__(self) -> Table:
        """All that is known of the file, a line each."""
        rows = [
            ("format", self.format),
            ("size", bytes_text(self.bytes)),
            ("input", "×".join("any" if size is None else str(size) for size in self.input_shape)),
            *([("opset", str(self.opset))] if self.opset is not None else []),
            *((key.replace("_", " "), str(value)) for key, value in self.details.items()),
            (
                "checked",
                self.checked if self.difference is None else f"{self.checked}, off by {self.difference:.1g}",
            ),
        ]
        return Table(("written", str(self.path)), rows)


@dataclass(frozen=True)
class Made:
    """What a writer made, before it has its place."""

    files: dict[Path, bytes]
    """What is to be written where, in that order."""
    info: ExportInfo
    target: nn.Module
    """What the file must compute: the network on the CPU in float32, with all that was put into the file."""
    args: tuple[Any, ...]
    """Inputs of it, of the size that the file takes; () if none are known."""
    told: Mapping[str, str] = field(default_factory=dict)
    """What the file says of itself."""


@dataclass(frozen=True)
class Options:
    """The keyword arguments of `export`, checked."""

    example: Any = None
    opset: int | None = None
    dynamic_batch: bool = True
    dynamic: Collection[str] | None = None
    classes: Sequence[str] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    include_normalization: bool = False
    include_softmax: bool = False
    licence: str | None = None
    program: Program | None = None
    """Of a network from a file: its inputs keep their names, and the dimensions open that are open there."""

    @property
    def open(self) -> frozenset[str]:
        """The dimensions that are left open: those of `dynamic`, else the batch unless `dynamic_batch` is False."""
        if self.dynamic is None:
            return frozenset({"batch"} if self.dynamic_batch else ())
        return frozenset(self.dynamic)

    def open_of(self, number: int, shape: Sequence[int]) -> dict[int, str]:
        """The dimensions of an input that are left open, and what they are called."""
        if self.program is not None and self.dynamic is None:
            port = self.program.inputs[number]
            left = {dim: size for dim, size in enumerate(port.shape or ()) if not isinstance(size, int)}
            return {
                dim: name or f"{port.name}_{dim}" for dim, name in left.items() if dim or self.dynamic_batch
            }
        names = DIMENSIONS if len(shape) == len(DIMENSIONS) else DIMENSIONS[: min(1, len(shape))]
        return {dim: name for dim, name in enumerate(names) if name and name in self.open}

    def open_shape(self, shape: Sequence[int]) -> tuple[int | None, ...]:
        """The shape of the first input with None for each dimension that is left open."""
        left = self.open_of(0, shape)
        return tuple(None if dim in left else size for dim, size in enumerate(shape))

    def __post_init__(self) -> None:
        given = (self.dynamic,) if isinstance(self.dynamic, str) else self.dynamic or ()
        wrong = [name for name in given if name not in _OPEN]
        if wrong or isinstance(self.dynamic, str):
            raise InputError(
                f"dynamic={self.dynamic!r}",
                "it is no set of dimensions",
                'pass some of {"batch", "height", "width"}',
            )
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
        from ..graph.inputs import as_args

        if self.example is not None:
            return self._as_many_as_fit(as_args(self.example, model))
        shape = known_input_shape(model)
        if shape is None:
            raise InputError(
                f"export of {type(model).__name__}",
                "its input shape is not known",
                "pass example=, a batch of images, e.g. torch.randn(1, 3, 224, 224)",
            )
        if self.program is not None:
            return self._as_many_as_fit(example_of(self.program))
        return (torch.zeros(shape),)

    def _as_many_as_fit(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """As many images as a file of a fixed batch takes, of a network that was read from one."""
        first = args[0] if args else None
        if self.program is None or not isinstance(first, Tensor) or not first.dim():
            return args
        count = (self.program.inputs[0].shape or (None,))[0]
        if not isinstance(count, int) or 0 in self.open_of(0, first.shape):
            return args
        return tuple(torch.cat([one] * -(-count // max(len(one), 1)))[:count] for one in args)

    def names(self, model: nn.Module, args: tuple[Any, ...]) -> list[str] | None:
        """Of the arguments, if there are several, or the example is a dict of them."""
        from ..graph.inputs import parameters_of

        if self.program is not None:
            return [port.name for port in self.program.inputs]
        named = isinstance(self.example, Mapping) or len(args) > 1
        names = list(parameters_of(model))[: len(args)]
        plain = all(isinstance(arg, Tensor) for arg in args)
        return names if named and plain and len(names) == len(args) else None


def known_input_shape(model: nn.Module) -> tuple[int, ...] | None:
    """Shape of one image batch that a network from `pintsize.models` takes; None for others."""
    made = origin(model)
    if made is None:
        return None
    options = made["options"]
    if (program := program_of(model)) is not None:
        return tuple(program.told["tried"][program.inputs[0].name])
    if outside.is_outside(made["name"]):
        expected = outside.expected(made["name"])
        return None if expected is None else (1, int(options["in_channels"]), *expected.size)
    size = options.get("image_size") or (32 if options.get("stem") == "small" else 224)
    return (1, int(options.get("in_channels", 3)), size, size)


def program_of(model: nn.Module) -> Program | None:
    """What a network does that was read from a file; None for others."""
    found = getattr(plain(model), "program", None)
    return found if isinstance(found, Program) else None


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
