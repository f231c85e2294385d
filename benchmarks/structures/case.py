"""What a hand-written structure is: a small network, an input, and the groups that can be pruned in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

IMAGE = (2, 3, 8, 8)
CASES: dict[str, Case] = {}


@dataclass(frozen=True)
class Case:
    """A structure with the answer worked out by hand."""

    name: str
    make: Callable[[], nn.Module]
    example: Callable[[], Any]
    groups: dict[str, int]
    """First layer of a group → its units; where two groups start in one layer, the second has a `'` behind."""


def case(
    groups: dict[str, int], shape: tuple[int, ...] = IMAGE, example: Callable[[], Any] | None = None
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: register a network that is made without arguments."""

    def register(network: type[nn.Module]) -> type[nn.Module]:
        CASES[network.__name__] = Case(
            network.__name__, network, example or (lambda: torch.randn(shape)), groups
        )
        return network

    return register


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the size of its input."""
    return nn.Conv2d(inputs, outputs, kernel, **{"padding": kernel // 2, **options})


class Block(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, **options: Any) -> None:
        super().__init__()
        self.conv = conv(inputs, outputs, kernel, bias=False, **options)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


class Head(nn.Module):
    """Global average and a classifier of three classes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))
