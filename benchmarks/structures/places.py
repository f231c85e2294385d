"""Structures that sample and put back by place, that go other ways in training, and that compute what nobody reads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Block, Head, case, conv


@case({"a": 8, "b": 6})
class GridSample(nn.Module):
    """Channels pass a sampling; the two coordinates that say where stay."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.offset, self.b, self.head = conv(3, 8), conv(8, 2), conv(8, 6), Head(6)
        axis = torch.linspace(-1, 1, 8)
        self.register_buffer("places", torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)[None])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        where = self.places + 0.1 * torch.tanh(self.offset(x)).permute(0, 2, 3, 1)
        return self.head(self.b(F.grid_sample(x, where, align_corners=False)))


@case({"a": 8, "b": 6})
class MaxUnpool(nn.Module):
    """Maxima put back in their places (SegNet): what `c` gives goes with what `a` gave."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(8, 6), conv(6, 8), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x, places = F.max_pool2d(torch.relu(self.a(x)), 2, return_indices=True)
        return self.head(F.max_unpool2d(self.c(torch.relu(self.b(x))), places, 2))


@case({"a": 6, "b": 5})
class RecurrentCell(nn.Module):
    """Its state has the size that the forward gives it; what it reads is free."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.cell, self.fc = conv(3, 6), conv(6, 5), nn.GRUCell(5, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.b(torch.relu(self.a(x))).mean(2).unbind(2)
        state = columns[0].new_zeros(len(x), 7)
        for column in columns[:3]:
            state = self.cell(column, state)
        return self.fc(state)


@case({"a.conv": 8, "aux.conv": 4, "b": 6})
class AuxiliaryHead(nn.Module):
    """A second head in training alone (GoogLeNet, PSPNet): it reads the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.aux, self.score = Block(3, 8), Block(8, 4), Head(4)
        self.b, self.head = conv(8, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.a(x)
        main = self.head(torch.relu(self.b(x)))
        return (main, self.score(self.aux(x))) if self.training else main


@case({"a.conv": 8, "b": 6})
class AuxiliaryHeadByNumber(nn.Module):
    """As above, but what that head flattens is a number in its code, and so stays."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.aux, self.score = Block(3, 8), Block(8, 4), nn.Linear(16, 3)
        self.b, self.head = conv(8, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.a(x)
        main = self.head(torch.relu(self.b(x)))
        return (
            (main, self.score(F.adaptive_avg_pool2d(self.aux(x), 2).view(-1, 16))) if self.training else main
        )


@case({"stem.conv": 6, "low": 5, "high": 6})
class Computed(nn.Module):
    """Every branch is computed for every result, as HRNet's loops do, and some of it is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.low, self.high = Block(3, 6), conv(6, 5), conv(6, 6)
        self.across, self.head = Block(5, 6), Head(11)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        low, high = torch.relu(self.low(x)), torch.relu(self.high(x))
        fused = [[low, self.across(low) + high][k] for k in range(2)]
        return self.head(torch.cat(fused, 1))
