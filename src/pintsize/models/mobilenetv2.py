"""MobileNetV2 at width 1.0 (Sandler et al., 1801.04381, table 2), as torchvision lays it out."""

from __future__ import annotations

from torch import Tensor, nn

from .initial import kaiming
from .network import Network
from .stem import Stem

_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""(expansion, channels, blocks, stride of the first block) of each stage."""


class InvertedResidual(nn.Module):
    """Expand 1×1, filter depthwise 3×3, project 1×1 without activation; a shortcut if shapes agree (§3.3)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.has_shortcut = stride == 1 and in_channels == out_channels
        hidden = in_channels * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [_conv_bn_relu6(in_channels, hidden, 1)]
        layers += [
            _conv_bn_relu6(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum where there is a shortcut."""
        y: Tensor = self.conv(x)
        return x + y if self.has_shortcut else y


class MobileNetV2(Network):
    """A stem, seventeen inverted residual blocks, a 1×1 convolution and one linear layer.

    `small` has stride 1 in the stem and in the 24-channel stage, as is usual for CIFAR; no tensor's
    shape depends on it.

    Shapes: `[B, in_channels, H, W]` → `[B, num_classes]`.
    """

    def __init__(self, *, num_classes: int, in_channels: int, stem: Stem) -> None:
        super().__init__()
        small = stem == "small"
        layers: list[nn.Module] = [_conv_bn_relu6(in_channels, 32, 3, stride=1 if small else 2)]
        channels = 32
        for expansion, width, depth, stride in _STAGES:
            first = 1 if small and width == 24 else stride
            for number in range(depth):
                layers.append(InvertedResidual(channels, width, 1 if number else first, expansion))
                channels = width
        layers.append(_conv_bn_relu6(channels, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))
        kaiming(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = self.avgpool(self.features(x))
        logits: Tensor = self.classifier(x.flatten(1))
        return logits


def _conv_bn_relu6(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )
