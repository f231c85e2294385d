"""The layers of an ONNX file: nodes that multiply by a stored weight, quantized or not."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..deploy.onnx.paths import check_paths
from ..errors import CorruptFile
from .shown import ShownLayer

_PASSED = frozenset(
    {"DequantizeLinear", "QuantizeLinear", "Transpose", "Reshape", "Cast", "Identity", "Squeeze", "Unsqueeze"}
)
"""Ops between a stored weight and the node that uses it."""
_WEIGHT = {
    "Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "ConvInteger": 1, "MatMulInteger": 1,
    "QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3,
}  # fmt: skip
"""Op → the input that is its weight."""


def onnx_layers(file: Path) -> tuple[list[ShownLayer], tuple[int, ...] | None]:
    """Layers in the order of the graph, MACs per image; and the shape of an image, if it is fixed.

    Raises:
        CorruptFile: it is no ONNX file.
    """
    import onnx
    from google.protobuf.message import DecodeError

    check_paths(file)
    try:
        model = onnx.load(file)
        onnx.checker.check_model(model)
        model = onnx.shape_inference.infer_shapes(model)
    except (
        DecodeError,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        ValueError,
        OSError,
    ) as error:
        reason = str(error).strip().splitlines()
        raise CorruptFile(
            str(file),
            f"it is not a whole ONNX file ({reason[0] if reason else type(error).__name__})",
            "export it again",
        ) from error
    reader = _Reader(model.graph)
    return reader.layers(), reader.image_shape()


class _Reader:
    """A graph with its stored tensors and the nodes that make each value."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {output: node for node in graph.node for output in node.output}
        typed = [*graph.value_info, *graph.output, *graph.input]
        self.shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in typed}

    def layers(self) -> list[ShownLayer]:
        found = []
        for node in self.graph.node:
            place = _WEIGHT.get(node.op_type)
            if place is None or place >= len(node.input):
                continue
            chain = self.back(node.input[place])
            if chain is not None:
                found.append(self.layer(node, *chain))
        return found

    def image_shape(self) -> tuple[int, ...] | None:
        """Of the first input that is not stored, without its first dimension; None if one is open."""
        name = next((value.name for value in self.graph.input if value.name not in self.stored), "")
        shape = tuple(self.shapes.get(name, ())[1:])
        return shape if shape and all(shape) else None

    def back(self, name: str) -> tuple[Any, Any | None] | None:
        """The stored weight behind a value, and the DequantizeLinear it passes; None if it is computed."""
        dequantize = None
        while name not in self.stored:
            node = self.makers.get(name)
            if node is None or node.op_type not in _PASSED:
                return None
            if node.op_type == "DequantizeLinear":
                dequantize = node
            name = node.input[0]
        return self.stored[name], dequantize

    def layer(self, node: Any, weight: Any, dequantize: Any | None) -> ShownLayer:
        from onnx import numpy_helper

        values = numpy_helper.to_array(weight)
        bits = _bits(weight)
        others = [
            name for name in [*node.input, *(dequantize.input if dequantize is not None else ())] if name
        ]
        parts = {chain[0].name: chain[0] for name in others if (chain := self.back(name))} | {
            weight.name: weight
        }
        return ShownLayer(
            weight.name.split(".weight")[0] if ".weight" in weight.name else node.name or weight.name,
            node.op_type,
            tuple(values.shape),
            self.density(values, dequantize),
            bits,
            sum((prod(part.dims) * _bits(part) + 7) // 8 for part in parts.values()),
            self.macs(node, values.shape),
        )

    def density(self, values: Any, dequantize: Any | None) -> float:
        """Fraction of the weights that stand for something else than zero."""
        from onnx import numpy_helper

        zero: Any = 0
        if dequantize is not None and len(dequantize.input) > 2 and dequantize.input[2] in self.stored:
            zero = numpy_helper.to_array(self.stored[dequantize.input[2]]).astype(np.int32)
            if zero.size > 1:
                axis = next((a.i for a in dequantize.attribute if a.name == "axis"), 1)
                if zero.ndim != 1 or values.shape[axis] != zero.size:
                    zero = zero.reshape(-1)[0]  # blocks: symmetric in practice, all alike
                else:
                    zero = zero.reshape(
                        [-1 if dim == axis % values.ndim else 1 for dim in range(values.ndim)]
                    )
        return float((values.astype(np.float32) != zero).mean()) if values.size else 0.0

    def macs(self, node: Any, weight: tuple[int, ...]) -> int | None:
        """Per image: an open first dimension counts as one; None if any other is open."""

        def known(name: str) -> list[int] | None:
            shape = self.shapes.get(name)
            return shape[1:] if shape and all(shape[1:]) else None

        if node.op_type == "ConvTranspose":
            given = known(node.input[0])
            return None if given is None else prod(given) * prod(weight[1:])
        out = known(node.output[0])
        if out is None:
            return None
        if "Conv" in node.op_type:
            return prod(out) * prod(weight[1:])
        return prod(out[:-1]) * prod(weight)


def _bits(tensor: Any) -> int:
    """Stored width of one element."""
    import onnx

    four = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4, getattr(onnx.TensorProto, "FLOAT4E2M1", None)}
    two = {getattr(onnx.TensorProto, name, None) for name in ("INT2", "UINT2")}
    if tensor.data_type in two:
        return 2
    return (
        4 if tensor.data_type in four else onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8
    )
