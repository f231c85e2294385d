"""Structures that move channels about: views, joins, padding, constants in the user's forward."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Block, Head, case, conv


@case({"a": 4, "b": 5, "c": 6, "last": 7})
class NestedCat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.last, self.head = (
            conv(3, 4),
            conv(3, 5),
            conv(5, 6),
            conv(18, 7),
            Head(7),
        )

    def forward(self, x: Tensor) -> Tensor:
        b = torch.relu(self.b(x))
        inner = torch.cat([self.c(b), b], 1)
        return self.head(self.last(torch.cat([self.a(x), torch.cat([inner, x], dim=-3)], 1)))


@case({"a": 8})
class CatTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = conv(3, 8), Head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.head(torch.cat([x, x], 1))


@case({"a": 8, "c": 6})
class CatSpatial(nn.Module):
    """Joined side by side in space: both have the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(3, 8), conv(8, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(torch.cat([self.a(x), self.b(x)], 3).relu()))


@case({"a": 8, "b": 8})
class CatGlobal(nn.Module):
    """A vector per image beside every position, as PointNet and ASPP do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), nn.Linear(3, 8), Head(16)

    def forward(self, x: Tensor) -> Tensor:
        vector = self.b(x.mean((2, 3)))[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return self.head(torch.cat([self.a(x), vector], 1))


@case({"a": 8, "last": 6})
class CatConstant(nn.Module):
    """Two coordinate channels, made in the forward, beside the features."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.last, self.head = conv(3, 8), conv(10, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        line = torch.linspace(-1, 1, x.shape[-1])
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij")).expand(x.shape[0], -1, -1, -1)
        return self.head(self.last(torch.cat([x, grid], 1)))


@case({"a": 8, "b": 6})
class FlattenNCHW(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8, stride=2), nn.Linear(128, 6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.b(self.a(x).flatten(1))))


@case({"a": 8})
class FlattenNHWC(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = conv(3, 8, stride=2), nn.Linear(128, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.a(x)).permute(0, 2, 3, 1).flatten(1))


@case({"b": 6})
class BakedView(nn.Module):
    """The first view has its size written in, and so keeps its channels; the second does not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 8, stride=2), conv(8, 6), nn.Linear(96, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).view(-1, 8, 4, 4)
        return self.fc(torch.relu(self.b(x)).reshape(x.shape[0], -1))


@case({"a": 8, "b": 6, "c": 5})
class FreeViews(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.fc = conv(3, 8), conv(8, 6), nn.Linear(6, 5), nn.Linear(320, 3)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        x = self.a(x).view(n, -1, 64).relu().view(n, -1, 8, 8)
        x = torch.relu(self.b(x)).flatten(2).transpose(1, 2)
        return self.fc(self.c(x).reshape(n, -1))


@case({"a": 7})
class ViewByAttribute(nn.Module):
    """The view reads the number of channels from an attribute, which follows."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 7
        self.a, self.fc = conv(3, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.a(x)).view(x.shape[0], self.out_channels, -1).mean(-1))


@case({"a": 8})
class ViewByAmbiguousAttribute(nn.Module):
    """As above, but the height is the same number."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 8
        self.a, self.fc = conv(3, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.a(x)).view(x.shape[0], self.out_channels, -1).mean(-1))


@case({"stem": 6, "a": 10})
class PaddedShortcut(nn.Module):
    """Option A with its constants in the forward: the zeros stay, what lies between them may go."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = conv(3, 6), conv(6, 10, stride=2), conv(10, 12), Head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 3), "constant", 0)
        return self.head(torch.relu(self.b(torch.relu(self.a(x))) + short))


class ChannelPad(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.padding = (0, 0, 0, 0, before, after)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], self.padding)


@case({"stem": 6, "a": 10, "b": 6})
class PaddedShortcutModule(nn.Module):
    """Option A with the number of zeros in a module: these can go, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = conv(3, 6), conv(6, 10, stride=2), conv(10, 12), Head(12)
        self.short = ChannelPad(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.b(torch.relu(self.a(x))) + self.short(x)))


@case({"a": 8, "last": 6}, (1, 3, 8, 8))
class BatchOfOneSqueezed(nn.Module):
    """`squeeze` drops the batch, too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.last, self.fc = conv(3, 8), conv(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.last(self.a(x).relu()), 1).squeeze())


@case({"theta": 4, "value": 5, "stem": 8})
class NonLocal(nn.Module):
    """Products of positions: the query goes with the key."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.theta, self.phi, self.value = conv(3, 8), conv(8, 4, 1), conv(8, 4, 1), conv(8, 5, 1)
        self.out, self.head = conv(5, 8, 1), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        n, _, h, w = x.shape
        query, key, value = (layer(x).flatten(2) for layer in (self.theta, self.phi, self.value))
        weights = torch.einsum("ncp,ncq->npq", query, key).softmax(-1)
        mixed = torch.bmm(value, weights.transpose(1, 2)).reshape(n, -1, h, w)
        return self.head(x + self.out(mixed))


@case({"a": 8, "b": 4, "c": 6})
class Weighted(nn.Module):
    """Bare parameters and buffers along the channels: gains, offsets, statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(8, 4), conv(4, 6), Head(6)
        self.gain = nn.Parameter(torch.randn(8))
        self.offset = nn.Parameter(torch.randn(1, 4, 1, 1))
        self.register_buffer("centre", torch.randn(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x) * self.gain.view(1, -1, 1, 1)
        x = torch.where(x > 0, x, 0.1 * x)
        return self.head((self.c((self.b(x) + self.offset).relu()) - self.centre).relu())


@case({"emb": 8, "fc": 6}, example=lambda: torch.randint(0, 20, (2, 7)))
class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.norm, self.fc, self.out = (
            nn.Embedding(20, 8),
            nn.RMSNorm(8),
            nn.Linear(8, 6),
            nn.Linear(6, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.fc(self.norm(self.emb(x)))).mean(1))


@case({"image.conv": 8, "vector": 6, "mix": 5},
      example=lambda: (torch.randn(2, 3, 8, 8), torch.randn(2, 4)))  # fmt: skip
class TwoInputsThreeOutputs(nn.Module):
    """What leaves the network keeps its channels; that is `side`'s."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector, self.mix = Block(3, 8), nn.Linear(4, 6), nn.Linear(14, 5)
        self.one, self.two, self.side = nn.Linear(5, 3), nn.Linear(5, 2), conv(8, 4)

    def forward(self, image: Tensor, vector: Tensor) -> dict[str, Any]:
        image = self.image(image)
        x = torch.relu(self.mix(torch.cat([image.mean((2, 3)), self.vector(vector)], 1)))
        return {"one": self.one(x), "others": (self.two(x), self.side(image)), "none": None}


@case({"stem": 8, "steps.0": 6, "steps.1": 6})
class ControlFlow(nn.Module):
    """Loops and branches on shapes, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.dropout = conv(3, 8), Head(6), nn.Dropout2d(0.3)
        self.steps = nn.ModuleList([conv(8, 6), conv(6, 6)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for step in self.steps:
            x = self.dropout(torch.relu(step(x)))
            if x.shape[-1] > 4:
                x = F.max_pool2d(x, 2, ceil_mode=True)
        return self.head(x if x.dim() == 4 else -x)
