"""Small networks that are quantized by hand: each quantizer's range is written out here."""

import pytest
import torch
from torch import Tensor, nn

from pintsize.quant.network.qdq_op import quantize_dequantize


class Fake(nn.Module):
    """A quantizer of an activation with a fixed range."""

    def __init__(self, scale: float, zero_point: int = 0, qmin: int = 0, qmax: int = 255) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("zero_point", torch.tensor(zero_point, dtype=torch.int32))
        self.qmin, self.qmax = qmin, qmax

    def forward(self, x: Tensor) -> Tensor:
        return quantize_dequantize(x, self.scale, self.zero_point, self.qmin, self.qmax, -1)


class _Weight(nn.Module):
    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.qmax = 2 ** (bits - 1) - 1
        largest = weight.detach().abs().flatten(1).amax(1).clamp_min(1e-8)
        self.register_buffer("scale", largest / self.qmax)
        self.register_buffer("zero_point", torch.zeros(len(weight), dtype=torch.int32))

    def forward(self, weight: Tensor) -> Tensor:
        return quantize_dequantize(weight, self.scale, self.zero_point, -self.qmax, self.qmax, 0)


class FakeConv(nn.Conv2d):
    """A convolution with quantized weights."""

    def __init__(self, *args, bits: int = 8, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.quantizer = _Weight(self.weight, bits)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.quantizer(self.weight), self.bias)


class FakeLinear(nn.Linear):
    """A linear layer with quantized weights."""

    def __init__(self, *args, bits: int = 8, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.quantizer = _Weight(self.weight, bits)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.quantizer(self.weight), self.bias)


class Residual(nn.Module):
    """conv–relu, conv + skip, relu, max pool, mean, linear: the pieces of a ResNet."""

    def __init__(self, bits: int = 8, activation_max: int = 255) -> None:
        super().__init__()
        span = {"qmax": activation_max}
        step = 255 / activation_max
        self.q_input = Fake(0.03, 128)
        self.conv1 = FakeConv(3, 16, 3, padding=1, bits=bits)
        self.q1 = Fake(0.006 * step, **span)
        self.conv2 = FakeConv(16, 16, 3, padding=1, bits=bits)
        self.q2 = Fake(0.008, 128)
        self.q3 = Fake(0.008 * step, **span)
        self.q4 = Fake(0.004)
        self.fc = FakeLinear(16, 10, bits=bits)

    def forward(self, x: Tensor) -> Tensor:
        x = self.q1(torch.relu(self.conv1(self.q_input(x))))
        x = self.q3(torch.relu(self.q2(self.conv2(x)) + x))
        x = nn.functional.max_pool2d(x, 2)
        x = self.q4(x.mean((2, 3)))
        return self.fc(x)


class Plain(nn.Module):
    """conv–bn–relu and a linear layer, in float."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(torch.relu(self.bn(self.conv(x)))), 1))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def plain() -> nn.Module:
    torch.manual_seed(0)
    return Plain().eval()


@pytest.fixture
def residual() -> nn.Module:
    torch.manual_seed(0)
    return Residual().eval()


@pytest.fixture
def parts() -> dict[str, type[nn.Module]]:
    """The quantized building blocks, for tests that build their own network."""
    return {"fake": Fake, "conv": FakeConv, "linear": FakeLinear, "residual": Residual}
