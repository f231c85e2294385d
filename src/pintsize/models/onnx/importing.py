"""`from_onnx`: read, rebuild, prove."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import CorruptFile, InputError, PintsizeError, UnsupportedOp
from ...storage.preprocessing import note
from . import reading
from .building import Builder, Value
from .network import OnnxNetwork
from .operators import OPERATORS, SIZES
from .operators.types import TYPES
from .pictures import told_of_images
from .program import Port, Ref, Step
from .proof import batch_of, prove
from .trials import sizes_tried

if TYPE_CHECKING:
    import onnx_ir as ir


def from_onnx(path: str | os.PathLike[str], *, example: Any = None, check: bool = True) -> OnnxNetwork:
    """The network in an `.onnx` file as an ordinary module, in eval mode, equal to the file in ONNX Runtime.

    Parameters are trainable, layers are torch's own under the names that the file has for them. Several outputs are a
    dict by the file's names. A file that is quantized already gives the network in floating point behind it:
    `network.program.told["quantized"]`.

    Args:
        path: opset 7 or later; weights may lie in files beside it.
        example: inputs that the file takes, [B, C, H, W] or a tuple: of a size it is proved at, if it leaves that open.
        check: whether to prove it: every output of ONNX Runtime and of the network on the same random inputs, and on
            `example`, within 1e-4 of the largest value; costs a few forwards.

    Raises:
        InputError: there is no such file, or `example` does not fit.
        CorruptFile: it is damaged.
        UnsupportedOp: a node is not understood; it is named.
        OperationError: the network differs from the file; the first node that does is named.
    """
    path = Path(path)
    model = reading.read(path)
    reading.checked(model, path)
    given = _given(model, example)
    inputs, outputs = _ports(model)
    state, program, sizes = _built(model, path, inputs, outputs, given)
    with torch.device("meta"):
        network = OnnxNetwork(program)
    network.load_state_dict(state, assign=True)
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    network.eval()
    fixed = _fixed(inputs)
    if fixed is not None:
        program = network.program = batch_of(network, sizes, fixed)
    if check:
        prove(network, path, sizes, given)
    network.remember()  # the proof has told how many images it takes
    note(network, told_of_images(program))
    return network


def _given(model: ir.Model, example: Any) -> tuple[Tensor, ...] | None:
    from ...graph.inputs import as_args

    if example is None:
        return None
    args = as_args(example)
    names = [str(value.name) for value in model.graph.inputs if value.name not in model.graph.initializers]
    if len(args) != len(names) or not all(isinstance(one, Tensor) for one in args):
        raise InputError(
            f"example of {len(args)} inputs", f"the file takes {len(names)}", f"pass {', '.join(names)}"
        )
    return args


def _ports(model: ir.Model) -> tuple[list[Port], list[Port]]:
    graph = model.graph
    return (
        [_port(value) for value in graph.inputs if value.name not in graph.initializers],
        [_port(value) for value in graph.outputs],
    )


def _port(value: ir.Value) -> Port:
    kind = TYPES.get(int(value.dtype), "float32") if value.dtype is not None else "float32"
    if value.shape is None:
        return Port(str(value.name), kind, None)
    sizes: list[int | str | None] = []
    for one in value.shape:
        if isinstance(one, int):
            sizes.append(one if one > 0 else None)
        else:
            sizes.append(None if one.value in (None, "", "?") else str(one.value))
    return Port(str(value.name), kind, tuple(sizes))


def _fixed(inputs: list[Port]) -> int | None:
    """Images in each call, where every input has them fixed alike."""
    counts = {port.shape[0] if port.shape else None for port in inputs}
    return next(iter(counts)) if len(counts) == 1 and all(isinstance(one, int) for one in counts) else None  # type: ignore[return-value]


def _built(
    model: ir.Model, path: Path, inputs: list[Port], outputs: list[Port], given: tuple[Tensor, ...] | None
) -> tuple[dict[str, Tensor], Any, dict[str, tuple[int, ...]]]:
    """Weights, program, and the shapes that it was made with."""
    tried = (
        iter([{port.name: tuple(one.shape) for port, one in zip(inputs, given, strict=True)}])
        if given is not None
        else sizes_tried(inputs)
    )
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    first: PintsizeError | None = None
    for sizes in tried:
        builder = Builder(sizes, _fixed(inputs), _static(inputs), opset, (OPERATORS, SIZES))
        try:
            _filled(builder, model, path, inputs, outputs)
        except UnsupportedOp as error:
            if "is not known" in error.cause:
                raise
            first = first or error
            continue
        told = {
            "producer": model.producer_name or "",
            "opset": opset,
            "quantized": builder.quantized,
            "tried": sizes,
        }
        metadata = {str(key): str(value) for key, value in model.metadata_props.items()}
        return builder.state, builder.program(inputs, outputs, metadata=metadata, told=told), sizes
    assert first is not None
    raise first


def _static(inputs: list[Port]) -> bool:
    return all(isinstance(one, int) for port in inputs for one in port.shape or ())


def _filled(builder: Builder, model: ir.Model, path: Path, inputs: list[Port], outputs: list[Port]) -> None:
    graph = model.graph
    builder.readers = Counter(
        value.name for node in graph.all_nodes() for value in node.inputs if value is not None and value.name
    )
    builder.readers.update(port.name for port in outputs)
    builder.given_out = {port.name for port in outputs}
    for port in inputs:
        data = torch.empty(builder.sizes[port.name], dtype=getattr(torch, port.dtype), device="meta")
        builder.values[port.name] = Value(port.name, "tensor", data)
    for name, value in graph.initializers.items():
        if value.const_value is None:
            raise CorruptFile(f"weight {name} of {path}", "it has no values", "restore the file from a copy")
        try:
            builder.hold(name, reading.weight(value, path.parent))
        except PintsizeError:
            raise
        except Exception as error:
            raise CorruptFile(
                f"weight {name} of {path}", f"it is damaged ({error})", "restore the file"
            ) from error
    for node in graph:
        try:
            builder.carry_out(node)
        except KeyError as error:
            raise CorruptFile(
                str(path), f"node {node.name!r} reads {error}, which is nowhere", "restore it"
            ) from error
    for port in outputs:
        given = builder.values.get(port.name)
        if given is None:
            raise CorruptFile(str(path), f"nothing gives its output {port.name}", "restore it from a copy")
        if given.name != port.name or not any(port.name in step.outputs for step in builder.steps):
            _passed_on(builder, given, port.name)
        elif given.kind == "sizes":
            raise UnsupportedOp(f"output {port.name} of {path}", "it is a shape, no result", "leave it out")


def _passed_on(builder: Builder, value: Value, name: str) -> None:
    """An output that is another name of a value."""
    given = builder.weight(value) if value.kind == "constant" else Ref(value.name)
    target = "tensor" if value.kind == "sizes" else "same"
    builder.steps.append(Step("function", target, (given,), {}, (name,), name))
