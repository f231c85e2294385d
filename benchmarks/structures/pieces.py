"""Structures that cut channels into pieces or shuffle them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Head, case, conv


@case({"last": 6})
class UnevenSplitResidual(nn.Module):
    """The sizes of the pieces are written in the forward, and the sum ties everything to them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 12), conv(4, 4), conv(8, 8)
        self.last, self.head = conv(12, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        a, b = x.split([4, 8], 1)
        return self.head(self.last(x + torch.cat([self.a(a), self.b(b)], 1)))


@case({"cv1": 8, "inner.0": 8, "cv2": 6})
class C2f(nn.Module):
    """Even halves of one convolution, the second with a residual: units of one channel from each half."""

    def __init__(self) -> None:
        super().__init__()
        self.cv1, self.cv2, self.head = conv(3, 16, 1), conv(24, 6, 1), Head(6)
        self.inner = nn.Sequential(conv(8, 8), nn.SiLU(), conv(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        parts.append(parts[-1] + self.inner(parts[-1]))
        return self.head(self.cv2(torch.cat(parts, 1)))


class Res2Block(nn.Module):
    def __init__(self, inputs: int, width: int, scale: int) -> None:
        super().__init__()
        self.width, self.scale = width, scale
        self.conv1 = conv(inputs, width * scale, 1)
        self.convs = nn.ModuleList(conv(width, width) for _ in range(scale - 1))
        self.conv3 = conv(width * scale, inputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        pieces = torch.split(torch.relu(self.conv1(x)), self.width, 1)
        parts, part = [], None
        for layer, piece in zip(self.convs, pieces, strict=False):
            part = torch.relu(layer(piece if part is None else part + piece))
            parts.append(part)
        return x + self.conv3(torch.cat([*parts, pieces[-1]], 1))


@case({"stem": 8, "block.conv1": 6, "block.convs.2": 6})
class Res2Net(nn.Module):
    """Pieces whose size is an attribute; what only the last convolution gives is free."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = conv(3, 8), Res2Block(8, 6, 4), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)))


@case({"up": 6, "last": 5})
class PixelShuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.shuffle, self.last, self.head = conv(3, 24), nn.PixelShuffle(2), conv(6, 5), Head(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.shuffle(self.up(x)).relu()))


@case({"a": 6})
class PixelUnshuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = conv(3, 6), Head(24)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.pixel_unshuffle(self.a(x).relu(), 2))


@case({"a": 3, "b": 4})
class ShuffleByView(nn.Module):
    """A shuffle of two rows before a convolution of two groups: channels k, k + 3, k + 6, k + 9 go together."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = 2
        self.a, self.b, self.head = conv(3, 12, 1), conv(12, 8, groups=2), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        n, c, h, w = x.shape
        x = x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        return self.head(self.b(x))


@case({"a": 4, "b": 6})
class ChannelShuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.shuffle, self.b, self.head = conv(3, 12), nn.ChannelShuffle(3), conv(12, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.shuffle(self.a(x).relu())))


@case({"a": 2, "b": 6})
class FewChannelsShuffled(nn.Module):
    """More groups than channels in a group: what goes is still one channel of each group."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.shuffle, self.b, self.head = conv(3, 8), nn.ChannelShuffle(4), conv(8, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.shuffle(self.a(x).relu())))


@case({"a": 2, "b": 6})
class FewChannelsShuffledByView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        n, c, h, w = x.shape
        return self.head(self.b(x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)))


@case({"a": 2, "b": 6})
class ManyPieces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(2, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        one, two, three, four = torch.relu(self.a(x)).chunk(4, 1)
        return self.head(self.b(one * two.sigmoid() + three * four.tanh()))


@case({"a": 6, "b": 5, "c": 4})
class HalvesByShape(nn.Module):
    """Halves whose ends are computed from the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 12), conv(6, 5), conv(6, 4), Head(9)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        half = x.shape[1] // 2
        return self.head(torch.cat([self.b(x[:, :half]), self.c(x[:, half:, 1:-1, 1:-1]).mean((2, 3), True)
                                    .expand(-1, -1, 8, 8)], 1))  # fmt: skip


@case({"b": 5})
class SliceWithNumbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 12), conv(6, 5), Head(5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.head(self.b(x[:, :6] + x[:, 6:12]))


@case({"a": 8, "c": 5})
class IndexSelect(nn.Module):
    """Rows picked by number keep their channels free; channels picked by number stay."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(8, 6), conv(6, 5), Head(5)
        self.register_buffer("order", torch.tensor([2, 0, 1, 5, 4, 3]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).index_select(2, self.order)[:, :, :, self.order]
        return self.head(self.c(self.b(x).index_select(1, self.order)))


@case({"a": 8, "c": 6})
class StackUnbind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(3, 8), conv(8, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.stack([self.a(x), self.b(x)], 1).softmax(1).unbind(1)
        return self.head(self.c(first - 0.5 * second))


@case({"a": 8, "b": 6})
class GatedLinearUnit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 16), conv(8, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(F.glu(self.a(x), 1)))
