"""Layers that a file computes in integers, and that it computes what the simulation does."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pintsize as ps

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec:FutureWarning")
EVERYWHERE = (".onnx", ".xml", ".pte")
HEAVY = ("Conv", "Gemm", "MatMul")


class Between(nn.Module):
    """Something between a convolution and its activation."""

    def __init__(self, function, activation=F.relu):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)
        self.function, self.activation = function, activation

    def forward(self, x):
        x = self.activation(self.function(self.a(x)))
        return self.c(self.b(x).relu().mean((2, 3)))


class NormAct(nn.BatchNorm2d):
    def forward(self, x):
        running = self.running_mean, self.running_var, self.weight, self.bias
        return F.relu(F.batch_norm(x, *running, self.training, 0.1, self.eps))


class StdConv(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class UNet(nn.Module):
    """Skips that end in a ReLU beside what does not, two operands and three."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.low = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 1)
        self.up, self.join, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(24, 8, 3, 1, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        one = self.one(x).relu()
        two = F.relu6(self.two(F.max_pool2d(one, 2)))
        up = F.interpolate(self.up(two), scale_factor=2)
        x = self.join(torch.cat((up, one, F.interpolate(self.low(two), scale_factor=2)), 1)).relu()
        return self.last(torch.cat((x, up), 1))


def norm_act():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), NormAct(8), nn.Conv2d(8, 8, 3), NormAct(8), nn.Conv2d(8, 2, 1)
    )


def standardised():
    return nn.Sequential(StdConv(3, 8, 3), nn.ReLU(), StdConv(8, 8, 3), nn.ReLU(), StdConv(8, 2, 1))


NETWORKS = {  # → layers, those of them that stay float
    "add 0": (lambda: Between(lambda x: x + 0), 3, []),
    "add zeros": (lambda: Between(lambda x: x + torch.zeros_like(x)), 3, []),
    "power 1": (lambda: Between(lambda x: x**1), 3, []),
    "slice": (lambda: Between(lambda x: x[:, :8]), 3, []),
    "two roundings": (lambda: Between(lambda x: x.transpose(2, 3), F.relu6), 3, []),
    "one function by two names": (lambda: Between(F.relu, torch.relu), 3, []),
    "norms that run their activation": (norm_act, 3, ["4"]),
    "standardised weights": (standardised, 3, ["4"]),
    "U-Net": (UNet, 6, ["last"]),
}


def settled(model):
    """Statistics and biases that are not those of the start."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.normal_(1, 0.2)
    return model.eval()


@pytest.mark.parametrize("suffix", EVERYWHERE)
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_the_file_computes_the_simulation(name, suffix, tmp_path):
    make, layers, floats = NETWORKS[name]
    torch.manual_seed(0)
    model, x = settled(make()), torch.randn(4, 3, 12, 12)
    result = ps.quantize(model, calibration=[x], method="minmax", progress=False)
    assert [layer.name for layer in result.in_float] == floats
    ps.export(model, tmp_path / f"net{suffix}", example=x)
    expected = model(x)
    with ps.open_runtime(tmp_path / f"net{suffix}", threads=1) as runtime:
        assert float((runtime(x) - expected).abs().max()) < 1e-5 * float(expected.abs().max())
        nodes = runtime.integer_nodes()
    if suffix == ".onnx":
        integer = sum(
            count for kind, count in nodes["integer"].items() if any(part in kind for part in HEAVY)
        )
        assert (integer, sum(nodes["float"].values())) == (layers - len(floats), len(floats))


@pytest.mark.parametrize("name", ["add 0", "multiply by 1", "divide by 1"])
def test_the_integer_reference_passes_on_what_does_nothing(name):
    function = {"add 0": lambda x: x + 0, "multiply by 1": lambda x: x * 1, "divide by 1": lambda x: x / 1}[
        name
    ]
    torch.manual_seed(0)
    model, x = Between(function).eval(), torch.randn(8, 3, 12, 12)
    ps.quantize(model, calibration=[x], progress=False)
    found = ps.quant.compare_with_integers(model, [x])
    assert (found.float_ops, found.max_steps) == ((), 0)


def test_layers_in_floating_point_are_listed_with_the_reason():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.up, self.left, self.last = (
                nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1),
            )  # fmt: skip

        def forward(self, x):
            x = F.relu(self.left(F.relu(self.up(F.relu(self.a(x))))))
            return F.conv2d(self.last(x), x.mean((0, 2, 3)).view(1, 4, 1, 1)[:, :2])

    x = torch.randn(4, 3, 8, 8)
    result = ps.quantize(Net().eval(), calibration=[x], ignore=("left",), progress=False)
    reasons = {layer.name: layer.reason for layer in result.in_float}
    assert list(reasons) == ["left", "", "up", "last"]
    for name, part in {
        "left": "ignore=",
        "": "network's input",
        "up": "transposed",
        "last": "result",
    }.items():
        assert part in reasons[name]
    weights = ps.quantize(nn.Sequential(nn.Conv2d(3, 4, 3)), weights=None, calibration=[x], progress=False)
    assert [layer.reason for layer in weights.in_float] == ["its weight is not quantized"]
    reads = ps.quantize(nn.Sequential(nn.Conv2d(3, 4, 3)), activations=None, example=x, progress=False)
    assert [layer.reason for layer in reads.in_float] == ["what it reads is not quantized"]
