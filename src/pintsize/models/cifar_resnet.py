"""ResNet20, 32, 44 and 56 for CIFAR with parameter-free shortcuts (He et al., 1512.03385, §4.2, option A).

State-dict keys are those of the widely used akamaster/pytorch_resnet_cifar10 checkpoints.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .initial import kaiming
from .network import Network
from .resnet import TwoConvolutions
from .stem import Stem, residual_stem


class PadShortcut(nn.Module):
    """Every second pixel, with channels of zeros on either side: `[B, C, H, W]` → `[B, C + 2p, H/2, W/2]`."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = (0, 0, 0, 0, padding, padding)
        """Zeros to add before and after the last, the second last and the channel dimension."""

    def forward(self, x: Tensor) -> Tensor:
        """Slice and pad."""
        return F.pad(x[:, :, ::2, ::2], self.padding)


class Block(TwoConvolutions):
    """Two 3×3 convolutions and a shortcut without parameters."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__(in_channels, width, stride)
        self.shortcut = nn.Identity() if stride == 1 else PadShortcut((width - in_channels) // 2)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum, then ReLU."""
        out: Tensor = self.relu2(self.convolved(x) + self.shortcut(x))
        return out


class CifarResNet(Network):
    """A stem, three stages of `depth` blocks with 16, 32, 64 channels, and one linear layer.

    Shapes: `[B, in_channels, H, W]` → `[B, num_classes]`.
    """

    def __init__(self, *, num_classes: int, in_channels: int, stem: Stem, depth: int) -> None:
        super().__init__()
        self.conv1, self.maxpool = residual_stem(in_channels, 16, stem)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(16, 16, depth, stride=1)
        self.layer2 = _stage(16, 32, depth, stride=2)
        self.layer3 = _stage(32, 64, depth, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, num_classes)
        kaiming(self, mode="fan_in")

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.avgpool(x).flatten(1))
        return logits


def _stage(in_channels: int, width: int, depth: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        Block(in_channels, width, stride), *(Block(width, width, 1) for _ in range(depth - 1))
    )
