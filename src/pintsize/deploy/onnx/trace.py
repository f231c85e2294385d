"""A network as an ONNX graph: traced by torch.export, every quantizer still one node.

A quantizer of a quantized model is the custom op `pintsize::quantize_dequantize`; here it becomes one
node of our own domain, with its range as attributes. `onnx_passes` and `onnx_weights` lower those
nodes to standard ONNX once the whole graph can be seen.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ...errors import OperationError
from ...storage.logs import silenced
from ..capture import captured, told_in_one_line
from ..options import Options
from ..rewrites import rewritten
from .ends import check_open, name_as, name_ends, name_open, open_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

_TALKATIVE = ("torch.onnx", "torch.export", "torch.__trace", "onnxscript", "onnx_ir")
_sizes: Any = importlib.import_module("torch.fx.experimental._config")
DOMAIN = "pintsize"
QUANTIZER = "QuantizeDequantize"
"""Node type (x, scale, zero_point; qmin, qmax, axis) → y; axis −1 is per tensor."""


def trace(
    model: nn.Module,
    args: tuple[Any, ...],
    *,
    opset: int,
    options: Options,
    names: Sequence[str] | None,
) -> ir.Model:
    """The graph of `model` in eval mode.

    Args:
        model: in eval mode, on the CPU, float32.
        args: inputs of `forward`; dimension 0 of each tensor is the batch, of size ≥ 2 if that is open.
        opset: ONNX opset of the standard nodes.
        options: of the export: which dimensions are left open.
        names: of the arguments, if they were given by name.

    Raises:
        OperationError: torch.export or the ONNX exporter does not understand the network.
    """
    _register_schema()
    shapes = open_shapes(model, args, options)
    remedy = "remove control flow that depends on tensor values"
    if shapes is not None:
        remedy += ", or pass dynamic=() if it depends on the size of its input"
    with (
        told_in_one_line(f"export of {type(model).__name__} to ONNX", "its forward cannot be traced", remedy),
        silenced(*_TALKATIVE),
        torch.no_grad(),
        _sizes.patch(backed_size_oblivious=True),  # a batch of 1, too
        _one_table(),
    ):
        program = torch.onnx.export(
            rewritten(
                captured(
                    model, args, dynamic_shapes=shapes, prefer_deferred_runtime_asserts_over_guards=True
                )
            ),
            dynamo=True, opset_version=opset, verbose=False,
            external_data=False, custom_translation_table=_translations(),
        )  # fmt: skip
    assert program is not None
    graph_model: ir.Model = program.model
    _name_by_module(graph_model.graph)
    name_ends(graph_model.graph, args, names, _outputs(program.exported_program))
    if options.program is not None:
        name_as(graph_model.graph, options.program)
    check_open(graph_model.graph, args, options)
    name_open(graph_model.graph, args, options)
    return graph_model


@contextlib.contextmanager
def _one_table() -> Iterator[None]:
    """The exporter builds its table of ops anew for every file, half a second: here once a process."""
    registry = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
    own = registry.__dict__["from_torchlib"]

    def copied(_: Any, **options: Any) -> Any:
        whole = _table(registry, own, **options)
        ours = copy.copy(whole)
        ours.functions = {op: list(found) for op, found in whole.functions.items()}  # the exporter adds to it
        return ours

    registry.from_torchlib = copied
    try:
        yield
    finally:
        registry.from_torchlib = own


@functools.cache
def _table(registry: type, build: classmethod[Any, Any, Any], **options: Any) -> Any:
    return build.__get__(None, registry)(**options)


def _name_by_module(graph: ir.Graph) -> None:
    """Name what a module gives after the module, if it runs once: so that layers can be told in the file."""
    last: dict[str, list[ir.Node]] = {}
    end: dict[str, ir.Node] = {}  # of a module and of those in it
    before = None
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        inside = [scope for scope in scopes[1:-1] if "activation_quantizers." not in scope]
        if not inside or inside[-1].endswith(".weight_quantizer"):
            continue
        path = inside[-1]
        end.update(dict.fromkeys(inside, node))
        if path == before:
            last[path][-1] = node
        else:
            last.setdefault(path, []).append(node)
        before = path
    for path, nodes in last.items():
        if (
            len(nodes) == 1
            and nodes[0] is end[path]
            and len(nodes[0].outputs) == 1
            and not nodes[0].outputs[0].is_graph_output()
        ):
            nodes[0].outputs[0].name = path


def _outputs(program: torch.export.ExportedProgram | None) -> Any:
    """The names of the output tensors, nested as the network nests them."""
    if program is None or program.call_spec.out_spec is None:
        return None
    return tree_unflatten(list(program.graph_signature.user_outputs), program.call_spec.out_spec)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, every module's own mode again afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def check_forward(model: nn.Module, args: tuple[Any, ...]) -> Any:
    """Run `model` once, so that an input it refuses is not reported as an export problem; its outputs.

    Raises:
        OperationError: its forward fails.
    """
    try:
        with torch.no_grad():
            return model(*args)
    except Exception as error:
        shapes = ", ".join(
            str(tuple(leaf.shape)) for leaf in tree_flatten(args)[0] if isinstance(leaf, Tensor)
        )
        raise OperationError(
            f"forward of {type(model).__name__} on an example of shape {shapes}",
            f"it raised {type(error).__name__}: {error}",
            "pass example= an input that the network accepts",
        ) from error


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How the exporter writes our ops: a quantizer as one node of our domain, a constant as itself."""
    import onnx_ir as ir
    import onnxscript

    from ...quant.network import qdq_op  # noqa: F401 (defines the op)

    domain, standard = onnxscript.values.Opset(DOMAIN, 1), onnxscript.opset18

    def constant(values: Sequence[float], shape: Sequence[int]) -> Any:
        content: Any = ir.tensor(np.array(values, np.float32).reshape(shape))
        return standard.Constant(value=content)

    def quantize_dequantize(x: Any, scale: Any, zero_point: Any, qmin: int, qmax: int, axis: int) -> Any:
        return domain.QuantizeDequantize(x, scale, zero_point, qmin=qmin, qmax=qmax, axis=axis)

    ops = torch.ops.pintsize
    return {ops.quantize_dequantize.default: quantize_dequantize, ops.constant.default: constant}


def _register_schema() -> None:
    """Tell onnx about our node, once a process: onnxscript asks for its schema."""
    from onnx import defs

    if defs.has(QUANTIZER, DOMAIN):
        return
    parameter, attribute = defs.OpSchema.FormalParameter, defs.OpSchema.Attribute
    real = "tensor(float)"
    number = [real, *(f"tensor({kind})" for kind in ("int8", "uint8", "int16", "int32", "int64"))]
    defs.register_schema(
        defs.OpSchema(
            QUANTIZER, DOMAIN, 1,
            inputs=[parameter("x", real), parameter("scale", real), parameter("zero_point", "Z")],
            outputs=[parameter("y", real)],
            type_constraints=[("Z", number, "whole numbers")],
            attributes=[attribute(name, defs.OpSchema.AttrType.INT) for name in ("qmin", "qmax", "axis")],
        )
    )  # fmt: skip
