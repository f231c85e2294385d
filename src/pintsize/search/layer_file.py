"""A single layer as an ONNX file, with random weights: what a runtime needs to show how fast it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

if TYPE_CHECKING:
    import onnx

_OPSET = 19
_SCALE = 0.02
"""Of every quantizer: times do not depend on it."""


class _Graph:
    """Nodes and constants of one file in the making."""

    def __init__(self, *, integer: bool) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._integer, self._random = integer, np.random.default_rng(0)

    def constant(self, name: str, values: Any) -> str:
        """An initializer."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """An operation with one output."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def rounded(self, value: str) -> str:
        """`value` on the grid of 8-bit activations; as it is in a floating-point file."""
        if not self._integer:
            return value
        grid = [
            self.constant(f"{value}_scale", np.float32(_SCALE)),
            self.constant(f"{value}_zero", np.uint8(128)),
        ]
        integers = self.node("QuantizeLinear", [value, *grid], f"{value}_int")
        return self.node("DequantizeLinear", [integers, *grid], f"{value}_rounded")

    def parameter(self, name: str, shape: tuple[int, ...], *, axis: int, bias: bool = False) -> str:
        """Random weights with a scale for each channel along `axis`, or a bias, at the width of the file."""
        if not self._integer:
            return self.constant(name, self._random.standard_normal(shape, np.float32) * 0.1)
        integers = self._random.integers(-127, 128, shape).astype(np.int32 if bias else np.int8)
        scales = np.full(shape[axis], _SCALE * (0.001 if bias else 0.05), np.float32)
        inputs = [self.constant(f"{name}_int", integers), self.constant(f"{name}_scale", scales)]
        return self.node("DequantizeLinear", inputs, name, axis=axis)


def layer_file(module: nn.Module, x: Tensor, *, integer: bool) -> bytes:
    """The file of a convolution or linear layer.

    Args:
        module: `nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d`, `nn.Linear`, or `nn.Identity` for a file that computes nothing.
        x: what it reads, of one image.
        integer: 8-bit weights and activations, converted from and to floating point at both ends.
    """
    graph = _Graph(integer=integer)
    if isinstance(module, nn.Identity):
        graph.node("Identity", ["x"], "same")
        return _bytes(graph, x, "same")
    read = graph.rounded("x")
    weight = module.weight
    assert isinstance(weight, Tensor)
    shape = tuple(weight.shape)
    biased = getattr(module, "bias", None) is not None
    if isinstance(module, nn.Linear):
        weights = graph.parameter("w", (shape[1], shape[0]), axis=1)
        if x.ndim == 2:
            bias = [graph.parameter("b", shape[:1], axis=0, bias=True)] if biased else []
            made = graph.node("Gemm", [read, weights, *bias], "made")
        else:
            made = graph.node("MatMul", [read, weights], "made")
    else:
        inputs = [read, graph.parameter("w", shape, axis=0)]
        inputs += [graph.parameter("b", shape[:1], axis=0, bias=True)] if biased else []
        made = graph.node("Conv", inputs, "made", **_attributes(module))
    return _bytes(graph, x, graph.rounded(made))


def _bytes(graph: _Graph, x: Tensor, result: str) -> bytes:
    """The whole file."""
    from onnx import TensorProto, helper

    document = helper.make_graph(
        graph.nodes, "layer", [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)], graph.constants,
    )  # fmt: skip
    model = helper.make_model(document, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)
    return bytes(model.SerializeToString())


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Of a Conv node."""
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    given: dict[str, Any] = {
        "strides": list(module.stride),
        "dilations": list(module.dilation),
        "group": module.groups,
    }
    if isinstance(module.padding, str):
        return given | {"auto_pad": "SAME_UPPER" if module.padding == "same" else "VALID"}
    return given | {"pads": [*module.padding, *module.padding]}
