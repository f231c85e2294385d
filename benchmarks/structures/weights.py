"""Structures whose weights are shared, tied, or computed from other parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Head, case, conv


@case({"stem": 8})
class SharedModule(nn.Module):
    """One convolution, used twice: what it gives is what it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again, self.head = conv(3, 8), conv(8, 8), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(self.again(torch.relu(self.again(x))))


@case({"low": 8, "tower": 6})
class SharedHead(nn.Module):
    """One tower over two levels, as detectors have it: both levels keep the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high, self.tower, self.score = conv(3, 8), conv(8, 8, stride=2), conv(8, 6), conv(6, 4)

    def forward(self, x: Tensor) -> list[Tensor]:
        low = torch.relu(self.low(x))
        return [self.score(torch.relu(self.tower(level))) for level in (low, self.high(low))]


@case({"fc": 16}, (2, 12))
class TiedWeights(nn.Module):
    """The decoder is the encoder's weight, transposed; one more layer holds the same parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.twin = nn.Linear(12, 16), nn.Linear(12, 16, bias=False)
        self.twin.weight = self.fc.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.fc(x)) + self.twin(x)
        return F.linear(hidden, self.fc.weight.t())


class Standardised(nn.Conv2d):
    """A convolution whose filters are standardised over their inputs."""

    def forward(self, x: Tensor) -> Tensor:
        mean, std = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / (std + 1e-5), self.bias)


@case({"a": 8, "c": 6})
class WeightStandardised(nn.Module):
    """What a standardised filter reads stays, else the filter changes; what it gives can go."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 5)
        self.a, self.c, self.head = Standardised(5, 8, 3, padding=1), conv(8, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(torch.relu(self.a(torch.relu(self.stem(x))))))


@case({"a.parametrizations.weight": 8})
class WeightNormalised(nn.Module):
    """As above, by torch's parametrization."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 5), Head(8)
        self.a = nn.utils.parametrizations.weight_norm(conv(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.a(torch.relu(self.stem(x)))))


class Negate(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return -weight


@case({"stem": 5, "a.parametrizations.weight": 8})
class Parametrised(nn.Module):
    """An element-wise parametrization: the parameter has another name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.head = conv(3, 5), conv(5, 8), Head(8)
        nn.utils.parametrize.register_parametrization(self.a, "weight", Negate())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.a(torch.relu(self.stem(x)))))


@case({"stem": 8})
class SharedWithAnIdleCopy(nn.Module):
    """A second instance that never runs holds the same parameters; its running statistics are its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = conv(3, 8), nn.BatchNorm2d(8), Head(8)
        self.idle = nn.BatchNorm2d(8)
        self.idle.weight, self.idle.bias = self.norm.weight, self.norm.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.stem(x))))


@case({"stem": 4, "out": 8, "hidden": 12}, (2, 7, 4))
class Latents(nn.Module):
    """Queries that are parameters, normed before they attend: their width is the residual's, the one head stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, 5, 8))
        self.norm, self.stem, self.query, self.pair = (
            nn.LayerNorm(8),
            nn.Linear(4, 4),
            nn.Linear(8, 6),
            nn.Linear(4, 12),
        )
        self.out, self.hidden, self.back, self.fc = (
            nn.Linear(6, 8),
            nn.Linear(8, 12),
            nn.Linear(12, 8),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        key, value = self.pair(torch.tanh(self.stem(x))).chunk(2, -1)
        latents = self.latents.expand(len(x), -1, -1)
        latents = latents + self.out(
            F.scaled_dot_product_attention(self.query(self.norm(latents)), key, value)
        )
        return self.fc((latents + self.back(torch.relu(self.hidden(latents)))).mean(1))


@case({"": 10, "'": 6, "last": 5})
class DynamicConvolution(nn.Module):
    """Filters mixed per image from three banks, one group per image: channels of the banks are free, windows stay."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.choice, self.last = conv(3, 6), nn.Linear(6, 3), conv(10, 5)
        self.banks, self.head = nn.Parameter(torch.randn(3, 10, 6, 3, 3)), Head(5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        n = len(x)
        share = self.choice(x.mean((2, 3))).softmax(-1)
        filters = torch.einsum("nk,koihw->noihw", share, self.banks).flatten(0, 1)
        x = F.conv2d(x.reshape(1, -1, *x.shape[2:]), filters, padding=1, groups=n)
        return self.head(self.last(torch.relu(x.view(n, -1, *x.shape[2:]))))
