"""The network that an imported file becomes."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CorruptFile, InputError
from ...storage import network_file as files
from ...storage.record import set_origin
from . import tail
from .functions import CREATES, FUNCTIONS
from .modules import make_module
from .program import Port, Program, Ref, Weight, map_leaves, refs

ORIGIN = "onnx"
"""Name under which files of ours know such networks."""


class OnnxNetwork(nn.Module):
    """A network from a file, as modules and the steps between them.

    Called with the file's inputs in their order. Gives one tensor; or, of several outputs, a dict of tensors by the
    names that the file has for them.

    Args:
        program: what it does.
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        for path, spec in program.modules.items():
            owner, name = _owner(self, path)
            owner.add_module(name, make_module(spec))
        for path, spec in program.tensors.items():
            owner, name = _owner(self, path)
            data = torch.zeros(tuple(spec["shape"]), dtype=_dtype(spec["dtype"]))
            if spec["learned"]:
                owner.register_parameter(name, nn.Parameter(data))
            else:
                owner.register_buffer(name, data)
        self._last = _last_uses(program)
        self.remember()
        self.eval()

    def remember(self) -> None:
        """Note the program as it is now as what a file of ours rebuilds the network from."""
        set_origin(self, ORIGIN, {"program": self.program.packed()})

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Of the file: names, types, dimensions."""
        return self.program.inputs

    @property
    def input_names(self) -> tuple[str, ...]:
        """As the file calls them."""
        return tuple(port.name for port in self.inputs)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """Of the file."""
        return self.program.outputs

    @functools.cached_property
    def heads(self) -> tuple[str, ...]:
        """The last layers, where what follows them only decodes; see `tail`."""
        return tail.heads(self.program)

    @functools.cached_property
    def decoders(self) -> tuple[str, ...]:
        """Layers that stay in floating point, whatever is quantized: they weigh the places of a softmax."""
        return tail.decoders(self.program)

    def forward(self, *inputs: Tensor) -> Any:
        """The file's outputs.

        Raises:
            InputError: another number of inputs than the file has, or numbers where it takes bytes.
        """
        if len(inputs) != len(self.program.inputs):
            names = ", ".join(port.name for port in self.program.inputs)
            raise InputError(
                f"{len(inputs)} inputs",
                f"the network takes {len(self.program.inputs)} ({names})",
                "pass these",
            )
        for port, given in zip(self.program.inputs, inputs, strict=True):
            if given.is_floating_point() and not _dtype(port.dtype).is_floating_point:
                raise InputError(
                    f"input {port.name} of {str(given.dtype).removeprefix('torch.')}", f"the file takes {port.dtype}",
                    "pass such, or cut the cast off with onnx.utils.extract_model: images of scale=1 are what it gives",
                )  # fmt: skip
        batch = self.program.batch
        if batch is None or not inputs[0].dim() or inputs[0].shape[0] == batch:
            found = self._run(inputs)
        else:
            found = self._in_turn(inputs, batch)
        return found[self.program.outputs[0].name] if len(self.program.outputs) == 1 else found

    def _in_turn(self, inputs: tuple[Tensor, ...], batch: int) -> dict[str, Tensor]:
        """A file that takes just so many images is given the others afterwards."""
        count = inputs[0].shape[0]
        if count % batch:
            raise InputError(
                f"a batch of {count} images",
                f"the file takes {batch} at a time",
                f"pass a multiple of {batch}",
            )
        parts = [self._run(tuple(one[k : k + batch] for one in inputs)) for k in range(0, count, batch)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _run(self, inputs: tuple[Tensor, ...], every: bool = False) -> dict[str, Any]:
        """All outputs; with `every`, all values."""
        values: dict[str, Any] = {
            port.name: value for port, value in zip(self.program.inputs, inputs, strict=True)
        }
        device = inputs[0].device if inputs else None

        def plain(leaf: Any) -> Any:
            if isinstance(leaf, Ref):
                return values[leaf.name]
            return _tensor(self, leaf.path) if isinstance(leaf, Weight) else leaf

        for step, done in zip(self.program.steps, self._last, strict=True):
            args, options = map_leaves(step.args, plain), map_leaves(step.options, plain)
            if step.kind == "module":
                made = self.get_submodule(step.target)(*args)
            else:
                if step.target in CREATES:
                    options = {**options, "device": device}
                made = FUNCTIONS[step.target](*args, **options)
            given = made if len(step.outputs) > 1 else (made,)
            values.update(zip(step.outputs, given, strict=False))
            if not every:
                for name in done:
                    values.pop(name, None)
        return values if every else {port.name: values[port.name] for port in self.program.outputs}

    def extra_repr(self) -> str:
        """Inputs and outputs."""
        return "\n".join(
            f"{kind} {port.name}: {port.dtype} {list(port.shape) if port.shape is not None else ''}"
            for kind, ports in (("input", self.inputs), ("output", self.outputs))
            for port in ports
        )


def rebuilt(program: str) -> OnnxNetwork:
    """The plain network that a file of ours names.

    Raises:
        CorruptFile: the program is damaged.
    """
    found = Program.unpacked(program)
    try:
        network = OnnxNetwork(found)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, CorruptFile):
            raise
        raise CorruptFile(
            "the program of an imported network", str(error), "restore the file from a copy"
        ) from error
    wrong = [s.target for s in found.steps if s.kind != "module" and s.target not in FUNCTIONS]
    if wrong:
        raise CorruptFile("the program of an imported network", f"it calls {wrong[0]!r}", "restore the file")
    return network


def _owner(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that holds `path`, made where it is not yet there."""
    *above, name = path.split(".")
    for part in above:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    return root, name


def _tensor(root: nn.Module, path: str) -> Tensor:
    owner, _, name = path.rpartition(".")
    found: Tensor = getattr(root.get_submodule(owner), name)
    return found


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise CorruptFile(
            f"type {name!r} of an imported network", "there is no such type", "restore the file"
        )
    return found


def _last_uses(program: Program) -> list[tuple[str, ...]]:
    """For each step the values that no later one reads: they are let go."""
    kept = {port.name for port in program.outputs}
    last: dict[str, int] = {}
    for number, step in enumerate(program.steps):
        for name in (*refs((step.args, step.options)), *step.outputs):
            last[name] = number
    found: list[list[str]] = [[] for _ in program.steps]
    for name, number in last.items():
        if name not in kept:
            found[number].append(name)
    return [tuple(one) for one in found]


files.NETWORKS.add(ORIGIN, rebuilt)
