"""DenseNet169 (Huang et al., 1608.06993, table 1): 82 concatenations, whose channels are read by all that follow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .pieces import conv


class DenseLayer(nn.Module):
    """A bottleneck to 4 times the growth and a 3×3 convolution to the growth, behind the channels it got."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), conv(channels, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), conv(4 * growth, growth, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv2(torch.relu(self.norm2(self.conv1(torch.relu(self.norm1(x))))))
        return torch.cat([x, new], 1)


def densenet169(growth: int = 32) -> nn.Sequential:
    channels = 2 * growth
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 7, 2, 3, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
                               nn.MaxPool2d(3, 2, 1)]  # fmt: skip
    for block, count in enumerate((6, 12, 32, 32)):
        if block:
            layers += [
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                conv(channels, channels // 2, 1, bias=False),
                nn.AvgPool2d(2),
            ]
            channels //= 2
        for _ in range(count):
            layers.append(DenseLayer(channels, growth))
            channels += growth
    head = [
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 1000),
    ]
    return nn.Sequential(*layers, *head)
