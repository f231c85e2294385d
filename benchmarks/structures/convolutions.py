"""Structures of convolutional networks: every kind of layer, and how blocks are wired."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Block, Head, case, conv


@case({"a.conv": 8, "b.conv": 12})
class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = Block(3, 8), Block(8, 12), Head(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x)))


@case({"stem.conv": 8, "a.conv": 12})
class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = Block(3, 8), Block(8, 12), Block(12, 8), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.relu(x + self.b(self.a(x))))


@case({"depth.conv": 8, "b.conv": 6, "last": 8})
class DepthwiseSeparable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depth, self.wide = Block(3, 8), Block(8, 8, groups=8)
        self.b, self.last, self.head = Block(8, 6, 1), conv(6, 8), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.b(self.wide(self.depth(x)))))


@case({"stem.conv": 6, "b": 5})
class ChannelMultiplier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.multiply = Block(3, 6), Block(6, 12, groups=6)
        self.b, self.head = conv(12, 5), Head(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.multiply(self.stem(x))))


@case({"a": 6, "b": 2, "grouped": 8})
class GroupedUnaligned(nn.Module):
    """The second group of the convolution starts inside the second producer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 6), conv(3, 10)
        self.grouped, self.head = conv(16, 16, groups=2), Head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.a(x), self.b(x)], 1)
        return self.head(self.grouped(torch.relu(x)))


@case({"a": 4, "grouped": 4})
class GroupNormGroupedConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = conv(3, 16), nn.GroupNorm(4, 16)
        self.grouped, self.after, self.head = conv(16, 16, groups=2), nn.GroupNorm(4, 16), Head(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.grouped(torch.relu(self.norm(self.a(x))))))


@case({"a": 8, "b": 6})
class InstanceNormTracked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = conv(3, 8), nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
        self.b, self.plain, self.head = conv(8, 6), nn.InstanceNorm2d(6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.plain(self.b(self.norm(self.a(x))))).square())


@case({"a": 8})
class LayerNormImage(nn.Module):
    """A layer norm over channels, height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.head = conv(3, 8), nn.LayerNorm([8, 8, 8]), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.a(x))))


@case({"a": 8, "b": 6})
class PReLUs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), Head(6)
        self.per_channel, self.single = nn.PReLU(8), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.single(self.b(self.per_channel(self.a(x)))))


@case({"a": 8})
class OneOutputChannel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.gate, self.head = conv(3, 8), conv(8, 1), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.head(x * torch.sigmoid(self.gate(x)))


@case({"a.conv": 8, "squeeze": 4})
class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.squeeze, self.excite, self.head = Block(3, 8), conv(8, 4, 1), conv(4, 8, 1), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        gate = self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(x, 1))))
        return self.head(x * torch.sigmoid(gate))


@case({"a": 8, "up": 6, "grouped": 3})
class Transposed(nn.Module):
    """A grouped transposed convolution behind a plain one; its inputs go in pairs, one of each group."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.up = conv(3, 8), nn.ConvTranspose2d(8, 12, 2, stride=2)
        self.grouped = nn.ConvTranspose2d(12, 6, 2, stride=2, groups=2)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.grouped(torch.relu(self.up(torch.relu(self.a(x))))))


@case({"a": 8})
class TransposedDepthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.up = conv(3, 8), nn.ConvTranspose2d(8, 8, 4, stride=2, groups=8)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(torch.relu(self.a(x))))


@case({"a": 8, "b": 6}, (2, 3, 16))
class Conv1d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.Conv1d(8, 6, 3, dilation=2)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_max_pool1d(self.b(F.elu(self.norm(self.a(x)))), 1).squeeze(-1))


@case({"a": 8, "b": 6}, (2, 3, 4, 6, 6))
class Conv3d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8), nn.Conv3d(8, 6, 3)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(torch.relu(self.norm(self.a(x))), (1, 2, 2))
        return self.fc(self.b(x).flatten(2).mean(-1))


@case({"stem": 8, "a": 6})
class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = conv(3, 8), conv(8, 6), conv(6, 8), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.stem(x))
        y = self.b(F.relu(self.a(x), inplace=True))
        y += x
        y.mul_(0.5).clamp_(max=3)
        return self.head(y.add_(x, alpha=2))


@case({"a.conv": 4, "b.conv": 6, "c.conv": 5, "d.conv": 3, "last": 7})
class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = Block(3, 4, 1), Block(3, 6), Block(6, 5, 5), Block(3, 3, 1)
        self.last, self.head = conv(12, 7), Head(7)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool2d(x, 3, stride=1, padding=1)
        return self.head(self.last(torch.cat([self.a(x), self.c(self.b(x)), self.d(pooled)], 1)))


@case({"down1.conv": 6, "down2.conv": 8, "bottom.conv": 10, "up2.conv": 8, "up1.conv": 6})
class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = Block(3, 6), Block(6, 8), Block(8, 10)
        self.up2, self.up1, self.out = Block(18, 8), Block(14, 6), conv(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        low = self.bottom(F.avg_pool2d(two, 2))
        up = F.interpolate(low, size=two.shape[2:], mode="bilinear", align_corners=False)
        up = self.up2(torch.cat([up, two], 1))
        up = F.interpolate(up, scale_factor=2, mode="nearest")
        return self.out(self.up1(torch.cat([up, one], dim=1)))


@case({"stem": 8, "convs.0": 4, "convs.1": 4, "transition": 6})
class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 4 * i) for i in range(2))
        self.convs = nn.ModuleList(conv(8 + 4 * i, 4) for i in range(2))
        self.norm, self.transition, self.head = nn.BatchNorm2d(16), conv(16, 6, 1), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, layer in zip(self.norms, self.convs, strict=True):
            features.append(layer(torch.relu(norm(torch.cat(features, 1)))))
        return self.head(self.transition(torch.relu(self.norm(torch.cat(features, 1)))))


@case({"stem": 8, "again": 6})
class Activations(nn.Module):
    """Every element-wise activation of PyTorch, in place where it can be."""

    def __init__(self) -> None:
        super().__init__()
        kinds = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.ELU, nn.CELU, nn.SELU, nn.LeakyReLU, nn.Hardtanh,
                 nn.Hardsigmoid, nn.Mish, nn.RReLU)  # fmt: skip
        plain = (
            nn.GELU,
            nn.Sigmoid,
            nn.Tanh,
            nn.Softplus,
            nn.Softsign,
            nn.LogSigmoid,
            nn.Hardshrink,
            nn.Softshrink,
        )
        self.stem, self.again, self.head = conv(3, 8), conv(8, 6), Head(6)
        self.plain = nn.ModuleList(
            [kind() for kind in (*kinds, *plain, nn.Tanhshrink)] + [nn.Threshold(0.1, 0.0)]
        )
        self.inplace = nn.ModuleList(
            [kind(inplace=True) for kind in kinds] + [nn.Threshold(0.1, 0.0, inplace=True)]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.stack([kind(x) for kind in self.plain]).sum(0)
        x = self.again(x.masked_fill(x > torch.tensor(3.0), 0.5))
        return self.head(sum(kind(x.clone()) for kind in self.inplace))


@case({"stem": 8, "squeeze.conv": 4})
class CoordinateAttention(nn.Module):
    """Concatenated and split along space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze = conv(3, 8), Block(8, 4, 1)
        self.rows, self.columns, self.head = conv(4, 8, 1), conv(4, 8, 1), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        height, width = x.shape[2:]
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).permute(0, 1, 3, 2)
        rows, columns = self.squeeze(torch.cat([rows, columns], 2)).split([height, width], 2)
        return self.head(x * self.rows(rows).sigmoid() * self.columns(columns.permute(0, 1, 3, 2)).sigmoid())


@case({"channel.0": 4, "after": 6})
class CBAM(nn.Module):
    """The spatial part averages over channels, so these stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.channel = nn.Sequential(conv(8, 4, 1), nn.ReLU(), conv(4, 8, 1))
        self.spatial, self.after, self.head = conv(2, 1, 7), conv(8, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        pooled = self.channel(F.adaptive_avg_pool2d(x, 1)) + self.channel(F.adaptive_max_pool2d(x, 1))
        x = x * pooled.sigmoid()
        maps = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)
        return self.head(self.after(x * self.spatial(maps).sigmoid()))


@case({"after": 6})
class EfficientChannelAttention(nn.Module):
    """A convolution that runs over the channels as if they were positions: these stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.slide, self.after = conv(3, 8), nn.Conv1d(1, 1, 3, padding=1), conv(8, 6)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        gate = self.slide(F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(-1, -2))
        return self.head(self.after(x * gate.transpose(-1, -2).unsqueeze(-1).sigmoid()))


@case({"after": 6})
class LocalResponseNorm(nn.Module):
    """It averages over neighbouring channels, so these stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.after, self.head = conv(3, 8), nn.LocalResponseNorm(3), conv(8, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.norm(torch.relu(self.stem(x)))))


@case({"stem": 8, "style": 6})
class Modulated(nn.Module):
    """Scale and shift of every channel come from a linear layer that is cut in two."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.style = conv(3, 8), nn.InstanceNorm2d(8), nn.Linear(3, 6)
        self.affine, self.head = nn.Linear(6, 16), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.affine(torch.relu(self.style(x.mean((2, 3))))).chunk(2, dim=1)
        x = self.norm(self.stem(x))
        return self.head(torch.relu(x * (1 + scale[:, :, None, None]) + shift[:, :, None, None]))
