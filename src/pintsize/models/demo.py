"""A small residual network for images of 8×8 to 32×32 pixels, quick to train on a CPU."""

from __future__ import annotations

from torch import Tensor, nn

from .initial import kaiming
from .resnet import BasicBlock, stage
from .stem import Stem, residual_stem


class DemoResNet(nn.Module):
    """A stem, three stages of two residual blocks with 16, 32, 64 channels, and one linear layer.

    As ResNet18 with a quarter of its width and no fourth stage: shortcuts are projections.

    Shapes: `[B, in_channels, H, W]` → `[B, num_classes]`.
    """

    def __init__(self, *, num_classes: int, in_channels: int, stem: Stem) -> None:
        super().__init__()
        self.conv1, self.maxpool = residual_stem(in_channels, 16, stem)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = stage(BasicBlock, 16, 16, 2, stride=1)
        self.layer2 = stage(BasicBlock, 16, 32, 2, stride=2)
        self.layer3 = stage(BasicBlock, 32, 64, 2, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits
