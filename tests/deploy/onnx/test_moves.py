"""Slices and pads of a network: as few nodes as can be, and no way through floating point."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import pintsize as ps
from pintsize.deploy import export, integer_nodes, open_runtime
from pintsize.deploy.onnx.passes import lower_activations
from pintsize.deploy.onnx.trace import DOMAIN, QUANTIZER

EXAMPLE = torch.zeros(1, 3, 12, 12)


class Shortcut(nn.Module):
    """A block whose shortcut takes every other pixel and pads the channels, as the CIFAR ResNets have it."""

    def __init__(self, pad=lambda x: functional.pad(x, (0, 0, 0, 0, 4, 4))) -> None:
        super().__init__()
        self.pad = pad
        self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        short = self.pad(x[:, :, ::2, ::2])
        return self.head((self.conv(x)[:, :, : short.shape[2]] + short).relu().mean((2, 3)))


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(32, 3, 12, 12)


def quantized(images: Tensor, **options) -> nn.Module:
    torch.manual_seed(0)
    model = Shortcut(**options).eval()
    ps.quantize(model, weights=8, activations=8, calibration=images, progress=False)
    return model


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_channels_are_padded_as_bytes(images, tmp_path, backend):
    pytest.importorskip(backend)
    model = quantized(images)
    path = export(model, tmp_path / "net.onnx", example=EXAMPLE).path
    with torch.no_grad():
        expected = model(images)
    with open_runtime(path, backend=backend, threads=1) as runtime:
        torch.testing.assert_close(runtime(images), expected, rtol=1e-5, atol=1e-5)
    assert integer_nodes(path, backend=backend)["float"] == {}
    graph = onnx.load(path).graph
    made = {value: node for node in graph.node for value in node.output}
    (pad,) = (node for node in graph.node if node.op_type == "Pad")
    assert made[pad.input[0]].op_type == "QuantizeLinear"
    assert len([node for node in graph.node if node.op_type == "Slice"]) == 1


@pytest.mark.parametrize(
    "pad",
    [
        lambda x: functional.pad(x, (0, 0, 0, 0, 4, 4), value=0.5),
        lambda x: functional.pad(x, (0, 0, 1, 0), mode="reflect").repeat(1, 2, 1, 1)[:, :, :6],
    ],
)
def test_what_is_not_zero_is_padded_as_it_was(images, tmp_path, pad):
    model = quantized(images, pad=pad)
    path = export(model, tmp_path / "net.onnx", example=EXAMPLE).path
    with torch.no_grad():
        torch.testing.assert_close(open_runtime(path, threads=1)(images), model(images), rtol=1e-5, atol=1e-5)


BYTES = {"qmin": 0, "qmax": 255, "axis": -1}


@pytest.mark.parametrize(
    ("pad", "second", "as_bytes"),
    [
        ({}, {}, True),
        ({"value": 0.5}, {}, False),
        ({"mode": "edge"}, {}, False),
        ({}, {"scale": 0.5}, False),
        ({}, {"qmax": 127}, False),
        ({"both": {"qmin": 16, "zero": 7}}, {}, False),  # the zeros would not be zero
        ({"both": {"qmin": 1, "qmax": 15, "zero": 7}}, {}, True),  # clipped before
        ({"both": {"qmax": 65535}}, {}, False),  # ONNX Runtime pads no 16-bit integers
    ],
)
def test_only_zeros_between_two_quantizers_of_one_range_are_padded_as_bytes(pad, second, as_bytes):
    value = lambda content, name: ir.Value(name=name, const_value=ir.tensor(content, name=name))  # noqa: E731

    def quantizer(x, scale=0.25, zero=3, **bounds):
        scale, zero = (value(np.float32(each), name) for each, name in ((scale, "s"), (zero, "z")))
        return ir.node(QUANTIZER, [x, scale, zero], {**BYTES, **bounds}, domain=DOMAIN)

    both = pad.get("both", {})
    x = ir.Value(name="x", shape=ir.Shape([1, 2, 2, 2]), type=ir.TensorType(ir.DataType.FLOAT))
    first = quantizer(x, **both)
    inputs = [first.outputs[0], value(np.array([0, 1, 0, 0, 0, 1, 0, 0]), "pads")]
    padded = ir.node(
        "Pad",
        [*inputs, value(np.float32(pad.get("value", 0.0)), "v")],
        {"mode": pad.get("mode", "constant")},
    )
    last = quantizer(padded.outputs[0], **both, **second)
    graph = ir.Graph(
        [x], last.outputs, nodes=[first, padded, last], name="g", opset_imports={"": 19, DOMAIN: 1}
    )
    lower_activations(ir.Model(graph, ir_version=9))
    before = next(node for node in reversed(graph) if node.op_type == "Pad").inputs[0].producer()
    assert (before.op_type != "DequantizeLinear") == as_bytes


class Slices(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def twice(x: Tensor) -> Tensor:
    rows = x[:, :, ::2]
    return rows[..., 1::2] + rows[..., ::2]


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda x: x[:, :, ::2, ::2], 1),
        (lambda x: x[:, 1:, 2:-1, -5:][..., ::3], 2),  # one axis twice
        (lambda x: x[:, 1:3, 1:, 3:9:2], 1),
        (twice, 3),
    ],
)
def test_slices_of_different_axes_are_one(images, tmp_path, function, count):
    path = export(Slices(function).eval(), tmp_path / "net.onnx", example=EXAMPLE).path
    assert torch.equal(open_runtime(path, threads=1)(images), function(images))
    graph = onnx.load(path).graph
    assert len([node for node in graph.node if node.op_type == "Slice"]) == count
    read = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= read  # nothing is left of what was merged
