"""VGG16 with and without batch norm (Simonyan & Zisserman, 1409.1556, table 1), as in torchvision."""

from __future__ import annotations

from torch import Tensor, nn

from .initial import kaiming
from .network import Network
from .stem import Stem, require_size

_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""(channels, convolutions) of each stage; a max-pool ends it."""


class VGG16(Network):
    """Thirteen 3×3 convolutions in five stages and a classifier.

    `small` pools to one pixel and classifies with 512 → 512 → num_classes (14.98 M parameters at ten
    classes, 14.99 M with batch norm) in place of 25088 → 4096 → 4096 → num_classes; its pooling rounds
    up, so that 28×28 pixels reach the end.

    Shapes: `[B, in_channels, H, W]` → `[B, num_classes]`; H and W at least 32, `small` any.
    """

    def __init__(self, *, num_classes: int, in_channels: int, stem: Stem, batch_norm: bool) -> None:
        super().__init__()
        large = stem == "imagenet"
        self.least_size = 32 if large else 1
        self.features = _features(in_channels, batch_norm=batch_norm, round_up=not large)
        self.avgpool = nn.AdaptiveAvgPool2d(7 if large else 1)
        self.classifier = _large_classifier(num_classes) if large else _small_classifier(num_classes)
        kaiming(self, linear_std=0.01 if large else None)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        require_size(x, self.least_size, "VGG16")
        x = self.avgpool(self.features(x))
        logits: Tensor = self.classifier(x.flatten(1))
        return logits


def _features(in_channels: int, *, batch_norm: bool, round_up: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels, depth in _STAGES:
        for _ in range(depth):
            layers.append(nn.Conv2d(in_channels, channels, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.ReLU(inplace=True))
            in_channels = channels
        layers.append(nn.MaxPool2d(2, stride=2, ceil_mode=round_up))
    return nn.Sequential(*layers)


def _large_classifier(num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(512 * 7 * 7, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(4096, num_classes),
    )


def _small_classifier(num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(512, 512),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(512, num_classes),
    )
