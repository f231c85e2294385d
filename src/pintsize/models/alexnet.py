"""AlexNet in the one-tower form (Krizhevsky, 1404.5997), as torchvision lays it out."""

from __future__ import annotations

from torch import Tensor, nn

from .network import Network
from .stem import Stem, require_size


class AlexNet(Network):
    """Five convolutions and a classifier of two hidden layers with 4096 units each.

    `small` has a 3×3 stem of stride 1 and no pooling after the last convolution, so that 28×28
    pixels still reach the classifier as 6×6; its other tensors have the shapes of the large form.

    Shapes: `[B, in_channels, H, W]` → `[B, num_classes]`; H and W at least 63, `small` at least 7.
    """

    def __init__(self, *, num_classes: int, in_channels: int, stem: Stem) -> None:
        super().__init__()
        large = stem == "imagenet"
        self.least_size = 63 if large else 7
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, 11, stride=4, padding=2)
            if large
            else nn.Conv2d(in_channels, 64, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2) if large else nn.Identity(),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        require_size(x, self.least_size, "AlexNet")
        x = self.avgpool(self.features(x))
        logits: Tensor = self.classifier(x.flatten(1))
        return logits
