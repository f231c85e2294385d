"""ShuffleNetV2 (Ma et al., 1807.11164, table 5), as torchvision lays it out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .network import Network
from .stem import Stem

WIDTHS = {
    "x0.5": (48, 96, 192, 1024),
    "x1.0": (116, 232, 464, 1024),
    "x1.5": (176, 352, 704, 1024),
    "x2.0": (244, 488, 976, 2048),
}
"""Channels of stages 2 to 4 and of the last convolution, by size."""


class Unit(nn.Module):
    """One unit (fig. 3 c, d): two branches, concatenated and shuffled.

    With stride 1 the first branch is half of the channels as they are; with stride 2 both see all.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        half = out_channels // 2
        branch_in = in_channels if stride == 2 else half
        self.branch1 = nn.Sequential()
        if stride == 2:
            self.branch1 = nn.Sequential(
                *_depthwise_bn(in_channels, stride), *_conv_bn(in_channels, half), nn.ReLU(inplace=True)
            )
        self.branch2 = nn.Sequential(
            *_conv_bn(branch_in, half),
            nn.ReLU(inplace=True),
            *_depthwise_bn(half, stride),
            *_conv_bn(half, half),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Concatenated, shuffled branches."""
        if self.stride == 1:
            kept, x = x.chunk(2, dim=1)
        else:
            kept = self.branch1(x)
        y = torch.cat((kept, self.branch2(x)), dim=1)
        # shuffle: channel i of either branch becomes channel 2i or 2i + 1
        shuffled: Tensor = y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return shuffled


class ShuffleNetV2(Network):
    """A stem, stages of 4, 8 and 4 units, a 1×1 convolution and one linear layer.

    `small` has stride 1 and no pooling in the stem; no tensor's shape depends on it.

    Shapes: `[B, in_channels, H, W]` → `[B, num_classes]`.
    """

    def __init__(self, *, num_classes: int, in_channels: int, stem: Stem, size: str) -> None:
        super().__init__()
        large = stem == "imagenet"
        width2, width3, width4, last = WIDTHS[size]
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, 24, 3, stride=2 if large else 1, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(inplace=True),
        )
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        self.stage2 = _stage(24, width2, 4)
        self.stage3 = _stage(width2, width3, 8)
        self.stage4 = _stage(width3, width4, 4)
        self.conv5 = nn.Sequential(*_conv_bn(width4, last), nn.ReLU(inplace=True))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = self.maxpool(self.conv1(x))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def _stage(in_channels: int, out_channels: int, depth: int) -> nn.Sequential:
    return nn.Sequential(
        Unit(in_channels, out_channels, 2), *(Unit(out_channels, out_channels, 1) for _ in range(depth - 1))
    )


def _conv_bn(in_channels: int, out_channels: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)


def _depthwise_bn(channels: int, stride: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)
    return conv, nn.BatchNorm2d(channels)
