"""Quantized weights and biases become integer initializers, stored at their true width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import torch

from ...errors import UnsupportedOp
from .passes import Range, array, constant, integer_type, quantized_values, quantizers, range_of, replace

if TYPE_CHECKING:
    import onnx_ir as ir

_PACKED = (  # lowest, highest, storage type, opset that brought it
    (-2, 1, ml_dtypes.int2, 25),
    (0, 3, ml_dtypes.uint2, 25),
    (-8, 7, ml_dtypes.int4, 21),
    (0, 15, ml_dtypes.uint4, 21),
)
_INT32_MAX = 2**31 - 1


@dataclass
class _Bias:
    """A float bias behind a quantized weight: added to products of scale `input_scale · weight scale`."""

    consumer: ir.Node
    values: np.ndarray[Any, np.dtype[np.float32]]
    input_scale: float


def opset_needed(graph: ir.Graph) -> int:
    """The lowest opset whose types hold the weights at their width."""
    return max((opset for node in _weights(graph) for *_, opset in [_storage(range_of(node))]), default=0)


def lower_weights(model: ir.Model, *, opset: int) -> None:
    """Quantizers of constants become integers and a DequantizeLinear, biases int32; in place."""
    graph = model.graph
    grids = quantized_values(graph)
    for node in list(_weights(graph)):
        _lower(graph, node, grids, opset)


def _weights(graph: ir.Graph) -> list[ir.Node]:
    return [node for node in quantizers(graph) if array(node.inputs[0]) is not None]


def _storage(span: Range) -> tuple[Any, int]:
    """Type in which a weight is stored, and the opset that brought it; (None, 0) for whole bytes."""
    for low, high, dtype, opset in _PACKED:
        if low <= span.qmin and span.qmax <= high:
            return dtype, opset
    return None, 0


def _lower(graph: ir.Graph, node: ir.Node, grids: dict[ir.Value, ir.Node], opset: int) -> None:
    weight = node.inputs[0]
    assert weight is not None
    span = range_of(node)
    symbols = _symbols(weight, span)
    transposed = _fold_transpose(graph, node)
    if transposed:
        symbols = np.ascontiguousarray(symbols.T)
        span = Range(
            span.scale, span.zero_point, span.qmin, span.qmax, 1 - span.axis if span.axis >= 0 else -1
        )
    biases = _biases(node.outputs[0], grids)
    symbols, span = _make_room_for_biases(symbols, span, biases)
    dequantized = _emit(graph, node, symbols, span, opset)
    for bias in biases:
        _lower_bias(graph, bias, span)
    replace(node.outputs[0], dequantized)
    graph.remove(node, safe=True)


def _symbols(weight: ir.Value, span: Range) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The integers of a weight, by the very op that the simulated model runs."""
    content = array(weight)
    assert content is not None
    zero_point = torch.from_numpy(span.zero_point.astype(np.int32))
    dequantized = torch.ops.pintsize.quantize_dequantize(
        torch.from_numpy(np.array(content, np.float32)), torch.from_numpy(span.scale), zero_point,
        span.qmin, span.qmax, span.axis,
    )  # fmt: skip
    shape = _broadcast_shape(span, content.ndim)
    whole = np.rint(dequantized.numpy() / span.scale.reshape(shape)) + span.zero_point.reshape(shape)
    symbols: np.ndarray[Any, np.dtype[np.int64]] = np.clip(whole, span.qmin, span.qmax).astype(np.int64)
    return symbols


def _broadcast_shape(span: Range, ndim: int) -> tuple[int, ...]:
    return tuple(-1 if dim == span.axis else 1 for dim in range(ndim)) if span.axis >= 0 else ()


def _fold_transpose(graph: ir.Graph, node: ir.Node) -> bool:
    """Take the Transpose behind the weight of a matrix product into the weight; whether there was one."""
    consumers, shape = list(node.outputs[0].consumers()), node.outputs[0].shape
    if len(consumers) != 1 or consumers[0].op_type != "Transpose" or shape is None or len(shape) != 2:
        return False
    transpose = consumers[0]
    transpose.outputs[0].replace_all_uses_with(node.outputs[0], replace_graph_outputs=True)
    node.outputs[0].shape = transpose.outputs[0].shape
    graph.remove(transpose, safe=True)
    return True


def _biases(weight: ir.Value, grids: dict[ir.Value, ir.Node]) -> list[_Bias]:
    """The biases of the layers that use this weight, where their inputs are quantized too."""
    found = []
    for consumer in weight.consumers():
        if (
            consumer.op_type not in {"Conv", "Gemm"}
            or len(consumer.inputs) < 3
            or consumer.inputs[1] is not weight
        ):
            continue
        x, values = consumer.inputs[0], array(consumer.inputs[2])
        if x is None or values is None or x not in grids or values.ndim != 1:
            continue
        found.append(_Bias(consumer, np.asarray(values, np.float32), float(range_of(grids[x]).scale)))
    return found


def _make_room_for_biases(
    symbols: np.ndarray[Any, np.dtype[np.int64]], span: Range, biases: list[_Bias]
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Range]:
    """Coarsen the channels whose weights are so small that their bias would not fit 32 bits.

    For a channel of zeros any scale is exact; for others the weights are rounded again, which moves
    the output by at most 2⁻²³ of that bias per input.
    """
    needed = np.zeros_like(span.scale, dtype=np.float64)
    for bias in biases:
        smallest = np.abs(bias.values.astype(np.float64)) / bias.input_scale / (_INT32_MAX // 2)
        needed = np.maximum(needed, smallest if span.scale.ndim else smallest.max(initial=0))
    if not (needed > span.scale).any():
        return symbols, span
    scale = np.maximum(span.scale, needed).astype(np.float32)
    shape = _broadcast_shape(span, symbols.ndim)
    zero = span.zero_point.reshape(shape)
    again = np.rint((symbols - zero) * (span.scale / scale).reshape(shape)).astype(np.int64) + zero
    return again, Range(scale, span.zero_point, span.qmin, span.qmax, span.axis)


def _emit(
    graph: ir.Graph, node: ir.Node, symbols: np.ndarray[Any, np.dtype[np.int64]], span: Range, opset: int
) -> ir.Value:
    """Integers at their true width → (Cast to whole bytes) → DequantizeLinear.

    The Cast is folded when the runtime opens the file, so that weights of any width reach its int8 kernels.
    """
    import onnx_ir as ir

    assert node.inputs[0] is not None
    name = str(node.inputs[0].name)
    _, _, dtype = integer_type(span, f"weight {name}")
    packed, since = _storage(span)
    if packed is not None and since > opset:
        raise UnsupportedOp(
            f"weight {name}", f"{np.dtype(packed).name} needs opset {since}, not {opset}", "leave opset out"
        )
    axis = {"axis": span.axis} if span.axis >= 0 else {}
    integer = ir.DataType[dtype]
    stored = constant(graph, symbols.astype(packed or integer.numpy()), f"{name}.integers")
    scale = constant(graph, span.scale, f"{name}.step")
    zero_point = constant(graph, span.zero_point.astype(integer.numpy()), f"{name}.zero")
    new = []
    if packed is not None:
        new.append(ir.node("Cast", [stored], {"to": integer.value}))
    new.append(ir.node("DequantizeLinear", [new[0].outputs[0] if new else stored, scale, zero_point], axis))
    graph.insert_before(node, new)
    return new[-1].outputs[0]


def _lower_bias(graph: ir.Graph, bias: _Bias, span: Range) -> None:
    import onnx_ir as ir

    value = bias.consumer.inputs[2]
    assert value is not None
    scale = np.asarray(span.scale * np.float32(bias.input_scale), np.float32)
    integers = np.rint(bias.values / scale.astype(np.float64)).clip(-_INT32_MAX, _INT32_MAX).astype(np.int32)
    inputs = [
        constant(graph, integers, f"{value.name}.integers"),
        constant(graph, scale, f"{value.name}.step"),
    ]
    dequantize = ir.node("DequantizeLinear", inputs, {"axis": 0} if scale.ndim else {})
    dequantize.outputs[0].shape, dequantize.outputs[0].type = value.shape, value.type
    graph.insert_before(bias.consumer, dequantize)
    bias.consumer.replace_input_with(2, dequantize.outputs[0])
