"""The quantizers of a traced network in the form that ExecuTorch's XNNPACK backend computes in integers.

XNNPACK has signed 8-bit activations, weights per output channel, and a kernel only where a quantizer
follows: an unsigned grid moves down by 128, which changes no value, and a layer whose result is not
quantized (the last one) gets the values of its rounded weights in floating point.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from ...errors import UnsupportedOp
from .layers import attribute

_LOW, _HIGH = -128, 127
_LAYERS = ("conv1d", "conv2d", "conv_transpose2d", "linear")
_FUSED = ("relu", "relu_", "hardtanh", "hardtanh_", "relu6", "relu6_")
_Constants = dict[fx.Node, Any]


def lower_quantizers(module: fx.GraphModule, *, integer_weights: bool = True) -> None:
    """Replace each `pintsize::quantize_dequantize` of a traced network by the operators of ExecuTorch, in place.

    Args:
        module: the network.
        integer_weights: False gives every layer the values of its rounded weights in floating point.

    Raises:
        UnsupportedOp: a quantizer's range is computed while the network runs, or does not fit 8 bits.
    """
    from torch.ao.quantization.fx import _decomposed  # noqa: F401 (defines the operators)

    from ...quant.network import qdq_op  # noqa: F401 (defines ours)

    _round_operands(module.graph)
    constants = _constants(module)
    target = torch.ops.pintsize.quantize_dequantize.default
    nodes = [node for node in module.graph.nodes if node.target is target]
    for node in nodes:
        if node.args[1] not in constants or node.args[2] not in constants:
            raise UnsupportedOp(
                f"quantizer {node.name}", "its scale depends on the input", "calibrate the model, then export"
            )
        if node.args[0] in constants:
            _lower_weight(module, node, constants, integer_weights and _in_integers(node, constants))
    for node in nodes:
        if node.args[0] not in constants:
            _lower_activation(module.graph, node, constants)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()


def split_to_slices(module: fx.GraphModule) -> None:
    """Write chunk and split as slices, for which XNNPACK has a kernel, in place."""
    for node in list(module.graph.nodes):
        parts = node.meta.get("val")
        if node.op != "call_function" or node.target.__name__.split(".")[0] not in {
            "chunk",
            "split",
            "split_with_sizes",
        }:
            continue
        dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + part.shape[dim])
        for user in list(node.users):
            if user.target is not operator.getitem:
                break
            index = user.args[1]
            with module.graph.inserting_before(user):
                piece = module.graph.call_function(
                    torch.ops.aten.slice.Tensor, (node.args[0], dim, starts[index], starts[index + 1])
                )
            user.replace_all_uses_with(piece)
            module.graph.erase_node(user)
    module.graph.eliminate_dead_code()
    module.recompile()


def largest_alone(module: fx.GraphModule) -> None:
    """Write `x.max(dim)`, of which XNNPACK has the values alone, as maximum and place of the maximum, in place."""
    graph, aten = module.graph, torch.ops.aten
    for node in list(graph.nodes):
        if node.target is not aten.max.dim:
            continue
        for user in list(node.users):
            if user.target is not operator.getitem:
                break
            values = user.args[1] == 0
            with graph.inserting_before(user):
                if values:
                    dims = ([node.args[1]], *node.args[2:])
                    found = graph.call_function(aten.amax.default, (node.args[0], *dims))
                else:
                    found = graph.call_function(aten.argmax.default, node.args)
            user.replace_all_uses_with(found)
            graph.erase_node(user)
    graph.eliminate_dead_code()
    module.recompile()


def _round_operands(graph: fx.Graph) -> None:
    """Round what is concatenated to the scale of the result: XNNPACK concatenates integers of one scale alone."""
    for node in list(graph.nodes):
        behind = list(node.users)
        if not _is(node, ("cat",)) or len(behind) != 1 or not _is_quantizer(behind[0]):
            continue
        grid = behind[0].args[1:]
        if not all(_is_quantizer(operand) for operand in node.args[0]):
            continue
        behind[0].prepend(node)  # behind the scale that its operands are rounded to
        for operand in dict.fromkeys(node.args[0]):
            if operand.args[1:] != grid:
                with graph.inserting_before(node):
                    again = graph.call_function(behind[0].target, (operand, *grid))
                node.replace_input_with(operand, again)


def _constants(module: fx.GraphModule) -> _Constants:
    """The value of every node that does not depend on the input."""
    found: _Constants = {}
    with torch.no_grad():
        for node in module.graph.nodes:
            if node.op == "get_attr":
                found[node] = attribute(module, node.target)
            elif (
                node.op == "call_function"
                and node.all_input_nodes
                and all(each in found for each in node.all_input_nodes)
            ):
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), found.__getitem__)
                found[node] = node.target(*args, **kwargs)
    return found


def _lower_weight(module: fx.GraphModule, node: fx.Node, constants: _Constants, integer: bool) -> None:
    """A rounded weight → its integers and a dequantizer for integer kernels, its values for others."""
    scale, zero = (constants[arg].detach() for arg in node.all_input_nodes[1:3])
    axis: Any = node.args[5]
    values = constants[node].detach()
    graph = module.graph
    with graph.inserting_before(node):
        if not integer:
            module.register_buffer(f"{node.name}_rounded", values.clone())
            node.replace_all_uses_with(graph.get_attr(f"{node.name}_rounded"))
            return
        along = scale.view([-1 if dim == axis else 1 for dim in range(values.dim())])
        integers = torch.round(values / along).clamp(_LOW, _HIGH).to(torch.int8)
        module.register_buffer(f"{node.name}_integers", integers)
        module.register_buffer(f"{node.name}_step", scale.clone())
        module.register_buffer(f"{node.name}_zero", zero.to(torch.int64))
        parts = [graph.get_attr(f"{node.name}_{name}") for name in ("integers", "step", "zero")]
        again = graph.call_function(
            torch.ops.quantized_decomposed.dequantize_per_channel.default,
            (*parts, axis, _LOW, _HIGH, torch.int8),  # a narrower range would mean 4-bit kernels to XNNPACK
        )
    node.replace_all_uses_with(again)


def _in_integers(weight: fx.Node, constants: _Constants) -> bool:
    """Whether XNNPACK has an integer kernel for every layer that reads `weight`."""
    scale, zero = (constants[each] for each in weight.all_input_nodes[1:3])
    if weight.args[5] != 0 or scale.dim() != 1 or bool(zero.any()):
        return False
    for layer in weight.users:
        if not _is(layer, _LAYERS) or layer.args[1] is not weight or not _is_quantizer(layer.args[0]):
            return False
        behind = list(layer.users)
        if len(behind) == 1 and _is(behind[0], _FUSED):
            behind = list(behind[0].users)
        if len(behind) != 1 or not _is_quantizer(behind[0]):
            return False
    return True


def _lower_activation(graph: fx.Graph, node: fx.Node, constants: _Constants) -> None:
    """A quantizer → quantize, and a dequantize for each reader: XNNPACK takes them in pairs with the reader."""
    x, scale, zero = node.args[0], constants[node.args[1]], constants[node.args[2]]  # type: ignore[index]
    qmin, qmax, axis = node.args[3:6]
    if axis >= 0 or qmax - qmin > _HIGH - _LOW:  # type: ignore[operator]
        raise UnsupportedOp(
            f"quantizer {node.name}", "XNNPACK has activations of 8 bits with one scale", "quantize them so"
        )
    down = 128 if qmax > _HIGH else 0  # type: ignore[operator]
    step, offset = float(scale), int(zero) - down
    call: Callable[..., fx.Node] = graph.call_function
    operators = torch.ops.quantized_decomposed
    with graph.inserting_before(node):
        if (qmin - down, qmax - down) != (_LOW, _HIGH):  # type: ignore[operator]
            ends = [(end - int(zero)) * step for end in (qmin, qmax)]  # type: ignore[operator]
            x = call(torch.ops.aten.hardtanh.default, (_before_relu(x, ends[0]), *ends))
        grid = (step, offset, _LOW, _HIGH, torch.int8)
        integers = call(operators.quantize_per_tensor.default, (x, *grid))
        for reader in list(node.users):
            again = call(operators.dequantize_per_tensor.default, (integers, *grid))
            reader.replace_input_with(node, again)


def _before_relu(x: Any, low: Any) -> Any:
    """`x` without the ReLU that a clamp from `low` repeats: a kernel takes in one of them."""
    return x.args[0] if low >= 0 and _is(x, ("relu", "relu_")) and len(x.users) == 1 else x


def _is(node: Any, names: tuple[str, ...]) -> bool:
    return (
        isinstance(node, fx.Node)
        and node.op == "call_function"
        and getattr(node.target, "__name__", "").split(".")[0] in names
    )


def _is_quantizer(node: Any) -> bool:
    return _is(node, ("quantize_dequantize",))
