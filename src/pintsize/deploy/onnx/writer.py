"""The `.onnx` writer: integer weights, quantizers where the runtimes fuse them, metadata, a checksum."""

from __future__ import annotations

import base64
import copy
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ...errors import InputError, OperationError
from ...graph.structure import structure_of
from ...storage.record import to_json
from ...version import __version__
from .. import instruction_sets
from ..options import Deployed, ExportInfo, Made, Options
from ..pint import seal

if TYPE_CHECKING:
    import onnx_ir as ir

DEFAULT_OPSET = 19
_SIZE_LIMIT = 2**31 - 2**20
"""A protocol buffer holds less than 2 GiB; the last MiB is for nodes and names."""


def make(model: nn.Module, path: Path, options: Options) -> Made:
    """`model` as one ONNX file; see `pintsize.export`."""
    from .trace import check_forward, evaluating

    if options.opset is not None and not DEFAULT_OPSET <= options.opset <= _newest_opset():
        raise InputError(
            f"opset={options.opset}",
            "quantized files need 19 or later, and your onnx package must know it",
            f"choose {DEFAULT_OPSET} to {_newest_opset()}, or leave it out",
        )
    args = options.args(model)
    with evaluating(model):
        told = metadata(model, options, check_forward(model, _like(model, args)))
        target, args = deployed(model, options), float_args(args)
        graph_model, opset = _lowered(target, args, options, options.names(model, args))
    data = _serialise(graph_model, model, path, told)
    shape = options.open_shape(next(leaf.shape for leaf in tree_leaves(args) if isinstance(leaf, Tensor)))
    return Made({path: data}, ExportInfo(path, "onnx", len(data), shape, opset), target, args, told)


def metadata(model: nn.Module, options: Options, outputs: Any) -> dict[str, str]:
    """What the file says about itself: `pintsize.*` entries, each JSON."""
    record = zlib.compress(json.dumps(to_json(model)).encode(), 9)  # else a fifth of a small network's file
    entries: dict[str, Any] = {"version": __version__, "record": base64.b64encode(record).decode()}
    made_for = instruction_sets.target(model)
    if made_for is not None:
        entries["target"] = made_for
    if options.classes is not None:
        entries["classes"] = [str(name) for name in options.classes]
    if options.mean is not None and options.std is not None:
        inside = options.include_normalization
        entries["normalization"] = {"mean": [*options.mean], "std": [*options.std], "included": inside}
    if options.include_softmax:
        entries["softmax"] = True
    if options.licence is not None:
        entries["licence"] = options.licence
    if (structure := structure_of(outputs)) is not None:
        entries["outputs"] = structure
    theirs = {} if options.program is None else options.program.metadata
    ours = {f"pintsize.{key}": json.dumps(value) for key, value in entries.items()}
    return {**{key: text for key, text in theirs.items() if not key.startswith("pintsize.")}, **ours}


def _lowered(
    target: nn.Module, args: tuple[Any, ...], options: Options, names: list[str] | None
) -> tuple[ir.Model, int]:
    """The graph of `target` in standard ONNX, and its opset."""
    from onnxscript import optimizer, version_converter

    from .passes import lower_activations, merge_slices, use_global_pools
    from .trace import trace
    from .weights import lower_weights, opset_needed

    first = next(leaf.shape for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
    inputs = tree_map_only(Tensor, _two_images, args) if 0 in options.open_of(0, first) else args
    graph_model = trace(target, inputs, opset=DEFAULT_OPSET, options=options, names=names)
    # masks, parametrizations and the like: only their result belongs in the file
    optimizer.fold_constants(graph_model, input_size_limit=2**31, output_size_limit=2**31)
    opset = options.opset or max(DEFAULT_OPSET, opset_needed(graph_model.graph))
    if opset != DEFAULT_OPSET:
        version_converter.convert_version(graph_model, opset)
    use_global_pools(graph_model.graph)
    merge_slices(graph_model.graph)
    lower_weights(graph_model, opset=opset)
    lower_activations(graph_model)
    _tidy(graph_model)
    return graph_model, opset


def _tidy(graph_model: ir.Model) -> None:
    """Drop what nothing reads, and what the exporter noted about the user's source files."""
    import onnx_ir.passes.common as passes

    steps = (
        passes.RemoveUnusedNodesPass(),
        passes.ClearMetadataAndDocStringPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.NameFixPass(),
    )
    for step in steps:
        step(graph_model)
    graph_model.metadata_props.clear()
    for value in (*graph_model.graph.inputs, *graph_model.graph.outputs):
        value.metadata_props.clear()


def _serialise(graph_model: ir.Model, model: nn.Module, path: Path, told: dict[str, str]) -> bytes:
    import onnx
    import onnx_ir as ir

    weights = sum(
        value.const_value.nbytes for value in graph_model.graph.initializers.values() if value.const_value
    )
    if weights > _SIZE_LIMIT:
        raise OperationError(
            str(path),
            f"its weights take {weights / 2**30:.2f} GiB, and one ONNX file holds 2 GiB",
            "prune or quantize the network first",
        )
    graph_model.producer_name, graph_model.producer_version = seal.PRODUCER, __version__
    graph_model.graph.name = type(model).__name__
    graph_model.metadata_props.update(told)
    proto = ir.to_proto(graph_model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise OperationError(
            str(path),
            f"the graph is not valid ONNX ({str(error).splitlines()[0]})",
            "report this network as a defect of pintsize; nothing was written",
        ) from error
    # shapes inside, which every runtime infers itself; 3 % of a small int8 file
    del proto.graph.value_info[:]
    return seal.seal(proto.SerializeToString())


def deployed(model: nn.Module, options: Options) -> nn.Module:
    """What the file computes: the network on the CPU, with what was asked to be put around it."""
    wrapped = options.include_normalization or options.include_softmax
    return on_cpu(Deployed(model, options).eval() if wrapped else model)


def float_args(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """`args` on the CPU, contiguous, floating-point tensors in float32."""

    def plain(x: Tensor) -> Tensor:
        x = x.detach().cpu()
        return (x.float() if x.is_floating_point() else x).clone(memory_format=torch.contiguous_format)

    moved: tuple[Any, ...] = tree_map_only(Tensor, plain, args)
    return moved


def on_cpu(model: nn.Module) -> nn.Module:
    """`model` itself, or its copy on the CPU in float32 if it is elsewhere."""
    tensors = [*model.parameters(), *model.buffers()]
    if all(
        t.device.type == "cpu" and (not t.is_floating_point() or t.dtype == torch.float32) for t in tensors
    ):
        return model
    return copy.deepcopy(model).to("cpu").float()


def _like(model: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """`args` where `model` is, floating-point tensors in its precision."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))

    def move(arg: Tensor) -> Tensor:
        return arg.detach().to(like.device, like.dtype if arg.is_floating_point() else arg.dtype)

    moved: tuple[Any, ...] = tree_map_only(Tensor, move, args)
    return moved


def _two_images(arg: Tensor) -> Tensor:
    """A batch of at least two: torch.export takes a dimension of size one for a constant."""
    return torch.cat([arg, arg]) if arg.ndim and arg.shape[0] == 1 else arg


def _newest_opset() -> int:
    from onnx import defs

    return int(defs.onnx_opset_version())
