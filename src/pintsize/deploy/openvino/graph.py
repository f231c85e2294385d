"""What is changed in an ONNX graph, in memory, before OpenVINO reads it.

OpenVINO computes a convolution and the sum behind it in one kernel, and there leaves out the rounding
of the convolution's result: on ResNet32 that moves every sum by a quarter of a step, on average. With
the rounding written as arithmetic the kernel keeps it. OpenVINO reads no 2-bit numbers. And some of
its 8-bit kernels are wrong (2026.4): an average pool pads with the integer 0 in place of the zero point, and
rounds what a factor behind it waits for; sums and means of tensors [B, T, C] are arbitrary;
padding with a value fails; and a layer whose result is rounded loses its bias where the batch is open and
sizes are computed (an RNN, `x.shape[0]`). All these are computed in float32 here.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

_MEANS = {"ReduceMean", "ReduceSum", "GlobalAveragePool"}
_SIZES = {"Shape", "GRU", "LSTM", "RNN"}
"""Ops that OpenVINO computes sizes for while it runs, if the batch is open."""
_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add"}


def prepared(content: bytes) -> bytes:
    """An ONNX file in the form that OpenVINO computes exactly; every change keeps what it means."""
    import onnx

    proto = onnx.load_from_string(content)
    changed = _widen(proto.graph)
    changed |= _round_before_sums(proto.graph)
    changed |= _keep_in_float(proto)
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
        _set_nodes(graph, nodes)
    return bool(replaced)


def _keep_in_float(proto: Any) -> bool:
    """Put a maximum that changes nothing before each op whose 8-bit kernel is wrong; whether there were any.

    OpenVINO moves the scale and the zero point of a quantizer behind pools and means, to compute them on
    integers, and stops at a maximum.
    """
    from onnx import helper, numpy_helper

    graph = proto.graph
    found = (
        _wrong_on_integers(proto) if any(node.op_type == "QuantizeLinear" for node in graph.node) else set()
    )
    if not found:
        return False
    lowest = np.asarray(np.finfo(np.float32).min)
    graph.initializer.append(numpy_helper.from_array(lowest, "pintsize/lowest"))
    nodes = []
    for node in graph.node:
        if node.output[0] in found:
            same = f"{node.output[0]}/float"
            nodes.append(helper.make_node("Max", [node.input[0], "pintsize/lowest"], [same]))
            node.input[0] = same
        nodes.append(node)
    _set_nodes(graph, nodes)
    return True


def _wrong_on_integers(proto: Any) -> set[str]:
    """The outputs of the ops that OpenVINO computes wrongly if their input is quantized."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    ranks = _ranks(proto)
    sizes = any(node.op_type in _SIZES for node in proto.graph.node)
    return {
        node.output[0]
        for node in proto.graph.node
        if _pads_with_a_value(node, constants)
        or (sizes and _quantizes_a_layer(node, makers))
        or (node.op_type in _MEANS and ranks.get(node.input[0], 3) == 3)
        or _averages_what_is_padded(node, makers)
        or (_averages_padding(node) and not _zero_is_0(makers.get(node.input[0]), constants))
    }


def _pads_with_a_value(node: Any, constants: dict[str, Any]) -> bool:
    """Whether it pads with something else than 0, which OpenVINO tries to store as an integer as it is."""
    from onnx import numpy_helper

    value = node.input[2] if node.op_type == "Pad" and len(node.input) > 2 else ""
    content = numpy_helper.to_array(constants[value]) if value in constants else np.zeros(0, np.float32)
    return content.dtype == np.float32 and bool(content.any())  # integers are padded with the zero point


def _quantizes_a_layer(node: Any, makers: dict[str, Any]) -> bool:
    """Whether it rounds what a layer gives: that goes wrong where sizes are computed, too."""
    maker = makers.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
    return maker is not None and maker.op_type in _LAYERS


def _averages_what_is_padded(node: Any, makers: dict[str, Any]) -> bool:
    """Whether it is an average pool behind a Pad: OpenVINO takes that into the pool, and rounds what comes out."""
    if node.op_type != "AveragePool":
        return False
    before = makers.get(node.input[0])
    while before is not None and before.op_type in {"QuantizeLinear", "DequantizeLinear"}:
        before = makers.get(before.input[0])
    return before is not None and before.op_type == "Pad"


def _averages_padding(node: Any) -> bool:
    given = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type != "AveragePool" or "count_include_pad" not in given or not given["count_include_pad"].i:
        return False
    automatic = "auto_pad" in given and given["auto_pad"].s.startswith(b"SAME")
    return automatic or ("pads" in given and any(given["pads"].ints))


def _zero_is_0(maker: Any, constants: dict[str, Any]) -> bool:
    """Whether `maker` is a dequantizer whose integer 0 means 0, as behind a ReLU."""
    from onnx import numpy_helper

    if maker is None or maker.op_type != "DequantizeLinear":
        return False
    return all(
        key in constants and not numpy_helper.to_array(constants[key]).any() for key in maker.input[2:]
    )


def _ranks(proto: Any) -> dict[str, int]:
    """How many dimensions each tensor has, where that can be told."""
    from onnx import shape_inference

    try:
        graph = shape_inference.infer_shapes(proto).graph
    except shape_inference.InferenceError:
        return {}  # OpenVINO says what is wrong with the file
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input)
        if value.type.tensor_type.HasField("shape")
    }


def _set_nodes(graph: Any, nodes: list[Any]) -> None:
    copies = [type(node)() for node in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copies)


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
