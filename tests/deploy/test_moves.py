"""Slices and pads of a network: as few nodes as can be, and no way through floating point."""

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import pintsize as ps
from pintsize.deploy import export, integer_nodes, open_runtime

EXAMPLE = torch.zeros(1, 3, 12, 12)


class Shortcut(nn.Module):
    """A block whose shortcut takes every other pixel and pads the channels, as the CIFAR ResNets have it."""

    def __init__(self, mode: str = "constant", value: float = 0.0) -> None:
        super().__init__()
        self.mode, self.value = mode, value
        self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        half = x[:, :, ::2, ::2]
        if self.mode == "constant":
            short = functional.pad(half, (0, 0, 0, 0, 4, 4), value=self.value)
        else:
            short = functional.pad(half, (1, 1, 1, 1), mode=self.mode)[:, :, 1:-1, 1:-1].repeat(1, 2, 1, 1)
        return self.head((self.conv(x) + short).relu().mean((2, 3)))


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(32, 3, 12, 12)


def quantized(images: Tensor, bits: int = 8, **options) -> nn.Module:
    torch.manual_seed(0)
    model = Shortcut(**options).eval()
    ps.quantize(model, weights=8, activations=bits, calibration=images, progress=False)
    return model


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("bits", [8, 4])
def test_channels_are_padded_as_bytes(images, tmp_path, backend, bits):
    pytest.importorskip(backend)
    model = quantized(images, bits)
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


@pytest.mark.parametrize("options", [{"value": 0.5}, {"mode": "reflect"}])
def test_what_is_not_zero_is_padded_as_it_was(images, tmp_path, options):
    model = quantized(images, **options)
    path = export(model, tmp_path / "net.onnx", example=EXAMPLE).path
    with torch.no_grad():
        torch.testing.assert_close(open_runtime(path, threads=1)(images), model(images), rtol=1e-5, atol=1e-5)


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
