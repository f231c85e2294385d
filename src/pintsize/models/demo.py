"""A small residual network for images of 8×8 to 32×32 pixels, quick to train on a CPU."""

from __future__ import annotations

from torch import Tensor, nn

from .initial import kaiming
from .network import Network
from .resnet import BasicBlock, stage
from .stem import Stem, residual_stem


class DemoResNet(Network):
    """A stem, three stages of two residual blocks with `width`, 2 and 4 times `width` channels, and one linear layer.

    As ResNet18 without its fourth stage, and with a quarter of its width where `width` is 16: shortcuts are
    projections.

    Shapes: `[B, in_channels, H, W]` → `[B, num_classes]`.
    """

    def __init__(self, *, num_classes: int, in_channels: int, stem: Stem, width: int = 16) -> None:
        super().__init__()
        self.conv1, self.maxpool = residual_stem(in_channels, width, stem)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = stage(BasicBlock, width, width, 2, stride=1)
        self.layer2 = stage(BasicBlock, width, 2 * width, 2, stride=2)
        self.layer3 = stage(BasicBlock, 2 * width, 4 * width, 2, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits
