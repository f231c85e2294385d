"""ResNet18, 34 and 50 (He et al., 1512.03385, table 1), as torchvision lays them out."""

from __future__ import annotations

from torch import Tensor, nn

from .initial import kaiming
from .network import Network
from .stem import Stem, residual_stem


class TwoConvolutions(nn.Module):
    """Two 3×3 convolutions, to whose output a block adds its shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def convolved(self, x: Tensor) -> Tensor:
        """What the shortcut is added to."""
        y = self.relu1(self.bn1(self.conv1(x)))
        out: Tensor = self.bn2(self.conv2(y))
        return out


class BasicBlock(TwoConvolutions):
    """Two 3×3 convolutions and a shortcut (fig. 5 left)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__(in_channels, width, stride)
        self.downsample = _projection(in_channels, width, stride)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum, then ReLU."""
        out: Tensor = self.relu2(self.convolved(x) + self.downsample(x))
        return out


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions and a shortcut (fig. 5 right); the stride is in the 3×3."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = _projection(in_channels, width * self.expansion, stride)
        self.relu3 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum, then ReLU."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu3(y + self.downsample(x))
        return out


class ResNet(Network):
    """A stem, four stages of residual blocks, global average pooling and one linear layer.

    Shapes: `[B, in_channels, H, W]` → `[B, num_classes]`; the stages have stride 4, 8, 16, 32 against
    the image, or 1, 2, 4, 8 with the `small` stem.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        stem: Stem,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, int, int, int],
    ) -> None:
        super().__init__()
        self.conv1, self.maxpool = residual_stem(in_channels, 64, stem)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = stage(block, 64, 64, depths[0], stride=1)
        self.layer2 = stage(block, 64 * block.expansion, 128, depths[1], stride=2)
        self.layer3 = stage(block, 128 * block.expansion, 256, depths[2], stride=2)
        self.layer4 = stage(block, 256 * block.expansion, 512, depths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * block.expansion, num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def stage(
    block: type[BasicBlock | Bottleneck], in_channels: int, width: int, depth: int, *, stride: int
) -> nn.Sequential:
    """`depth` blocks, the first with `stride`; `width` is the blocks' inner width."""
    blocks = [block(in_channels, width, stride)]
    blocks += [block(width * block.expansion, width, 1) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Option B of §3.3: the identity where shapes agree, else a 1×1 convolution."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )
