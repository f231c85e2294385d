"""What is changed in an ONNX graph, in memory, before OpenVINO reads it.

OpenVINO computes a convolution and the sum behind it in one kernel, and there leaves out the rounding
of the convolution's result: on ResNet32 that moves every sum by a quarter of a step, on average. With
the rounding written as arithmetic the kernel keeps it. And OpenVINO reads no 2-bit numbers.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np


def prepared(content: bytes) -> bytes:
    """An ONNX file in the form that OpenVINO computes exactly; every change keeps what it means."""
    import onnx

    proto = onnx.load_from_string(content)
    changed = _widen(proto.graph)
    changed |= _round_before_sums(proto.graph)
    return proto.SerializeToString() if changed else content


def _widen(graph: Any) -> bool:
    """Store 2-bit numbers as bytes; whether there were any."""
    from onnx import TensorProto, numpy_helper

    wider = {TensorProto.INT2: np.int8, TensorProto.UINT2: np.uint8}
    found = [tensor for tensor in graph.initializer if tensor.data_type in wider]
    for tensor in found:
        numbers = numpy_helper.to_array(tensor).astype(wider[tensor.data_type])
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numbers), tensor.name))
    return bool(found)


def _round_before_sums(graph: Any) -> bool:
    """Convolution → quantizer → sum: write one such quantizer of each sum as ×, round, clip, ×."""
    from onnx import numpy_helper

    makers = {name: node for node in graph.node for name in node.output}
    readers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    results = {value.name for value in graph.output}
    replaced: dict[int, list[Any]] = {}
    dropped: set[int] = set()
    for node in graph.node:
        for name in node.input if node.op_type == "Add" else ():
            pair = _quantizer(name, makers, readers)
            if pair is None or name in results or pair[0].input[1] not in constants:
                continue
            quantize, dequantize = pair
            scale, zero = (numpy_helper.to_array(constants[key]) for key in quantize.input[1:3])
            replaced[id(quantize)] = _arithmetic(graph, quantize.input[0], name, scale, zero)
            dropped.add(id(dequantize))
            break  # OpenVINO takes one convolution into the sum; the other rounds as it stores its result
    nodes = [new for node in graph.node if id(node) not in dropped for new in replaced.get(id(node), [node])]
    if replaced:
        copies = [type(node)() for node in nodes]
        for copy, node in zip(copies, nodes, strict=True):
            copy.CopyFrom(node)
        del graph.node[:]
        graph.node.extend(copies)
    return bool(replaced)


def _quantizer(name: str, makers: dict[str, Any], readers: dict[str, list[Any]]) -> tuple[Any, Any] | None:
    """The pair that gives `name`, if it rounds a convolution's result for one reader alone."""
    dequantize = makers.get(name)
    if dequantize is None or dequantize.op_type != "DequantizeLinear" or len(readers[name]) != 1:
        return None
    quantize = makers.get(dequantize.input[0])
    if quantize is None or quantize.op_type != "QuantizeLinear" or len(readers[quantize.output[0]]) != 1:
        return None
    source = makers.get(quantize.input[0])
    same = list(quantize.input[1:]) == list(dequantize.input[1:]) and len(quantize.input) == 3
    return (quantize, dequantize) if source is not None and source.op_type == "Conv" and same else None


def _arithmetic(graph: Any, x: str, y: str, scale: Any, zero: Any) -> list[Any]:
    """`y = clip(round(x / scale), low, high) · scale`; ONNX rounds half to even, as the quantizer does."""
    from onnx import helper, numpy_helper

    limits = np.iinfo(zero.dtype)
    numbers = {
        "inverse": 1 / scale.astype(np.float64),
        "low": limits.min - int(zero),
        "high": limits.max - int(zero),
        "step": scale,
    }
    within = f"{y}/rounding"
    for key, value in numbers.items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), f"{within}/{key}"))
    return [
        helper.make_node("Mul", [x, f"{within}/inverse"], [f"{within}/steps"]),
        helper.make_node("Round", [f"{within}/steps"], [f"{within}/whole"]),
        helper.make_node(
            "Clip", [f"{within}/whole", f"{within}/low", f"{within}/high"], [f"{within}/clipped"]
        ),
        helper.make_node("Mul", [f"{within}/clipped", f"{within}/step"], [y]),
    ]
