"""Reading an `.onnx` file: nothing outside its folder is opened, nothing in it is carried out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...errors import CorruptFile, InputError, OperationError
from ...storage.logs import silenced

if TYPE_CHECKING:
    import onnx_ir as ir

OLDEST = 7
"""Opset from which on operands are spread as NumPy spreads them."""


def read(path: str | os.PathLike[str]) -> ir.Model:
    """The file's graph, its local functions put where they are called; weights in other files stay there.

    Raises:
        InputError: there is no such file, or it is of an opset before 7.
        CorruptFile: it is damaged.
    """
    import onnx
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    path = Path(path)
    if not path.is_file():
        raise InputError(str(path), "there is no such file", "check the path")
    try:
        proto = onnx.load(os.fspath(path), load_external_data=False)
        if not proto.graph.node and not proto.graph.output:
            raise ValueError("it holds no graph")
        with silenced("onnx_ir"):  # what it warns of is refused, or does no harm
            model = ir.from_proto(proto)
            if model.functions:
                passes.InlinePass()(model)
            passes.TopologicalSortPass()(model)
    except Exception as error:  # whatever damaged bytes make the parser and the passes trip over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CorruptFile(
            str(path), f"it is no whole ONNX file ({reason})", "restore it from a copy"
        ) from error
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx"))
    if opset is None or opset < OLDEST:
        raise InputError(
            str(path),
            f"its opset is {opset}",
            f"raise it to {OLDEST} or later with onnx.version_converter.convert_version",
        )
    return model


def weight(value: ir.Value, folder: Path) -> Tensor:
    """A weight of the file; one that lies in another file is mapped, not read.

    Raises:
        InputError: that file is missing, or not beside this one.
        CorruptFile: it is too short.
    """
    import onnx_ir as ir

    from .operators.shapes import from_file

    tensor = value.const_value
    if not isinstance(tensor, ir.ExternalTensor):
        return from_file(tensor)
    place = Path(tensor.location)
    found = (folder / place).resolve()
    what = f"weight {value.name}, in {tensor.location}"
    if place.is_absolute() or not found.is_relative_to(folder.resolve()):
        raise InputError(what, "that is not in the file's own folder", "put it beside the .onnx file")
    if not found.is_file():
        raise InputError(what, f"there is no {found}", "put it beside the .onnx file")
    kind, shape = tensor.dtype.numpy(), tuple(int(one) for one in tensor.shape)  # type: ignore[arg-type]
    if kind.kind not in "fiub" or tensor.dtype.bitwidth < 8:
        return from_file(tensor)
    try:  # copy on write: training changes the network, never the file
        data = (
            np.memmap(found, kind, "c", tensor.offset or 0, shape)
            if np.prod(shape)
            else np.zeros(shape, kind)
        )
    except (ValueError, OSError) as error:
        raise CorruptFile(what, f"it is too short ({error})", "restore it from a copy") from error
    return torch.from_numpy(np.asarray(data))


def checked(model: ir.Model, path: Path) -> None:
    """Raise unless the graph has inputs and outputs with types.

    Raises:
        InputError: an input is no tensor.
        OperationError: there is nothing to compute.
    """
    graph = model.graph
    if not graph.outputs:
        raise OperationError(str(path), "it has no outputs", "export it again")
    for value in graph.inputs:
        if value.name not in graph.initializers and (value.dtype is None or value.shape is None):
            raise InputError(
                f"input {value.name} of {path}", "its type or shape is not told", "export the file with them"
            )
