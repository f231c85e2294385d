"""Kinds of network that people ship, each small, with a batch of what it sees and says, and its task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(block(3, 16), block(16, 16, 2)), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Segmenter(nn.Module):
    """A dict, with an auxiliary head in training, as torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = block(3, 8), block(8, 16, 2)
        self.out, self.aux = nn.Conv2d(16, 3, 1), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.deep(self.stem(x))
        found = {"out": F.interpolate(self.out(features), x.shape[2:], mode="bilinear", align_corners=False)}
        if self.training:
            found["aux"] = F.interpolate(
                self.aux(features), x.shape[2:], mode="bilinear", align_corners=False
            )
        return found


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = block(3, 8), block(8, 16), block(16, 16)
        self.up2, self.up1 = nn.ConvTranspose2d(16, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
        self.join2, self.join1, self.head = block(32, 16), block(16, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        low = self.up2(self.bottom(F.max_pool2d(two, 2)))
        return self.head(self.join1(torch.cat([one, self.up1(self.join2(torch.cat([two, low], 1)))], 1)))


class Heads(nn.Module):
    """A detector's core: three maps of boxes and classes, a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([block(3, 8, 2), block(8, 16, 2), block(16, 16, 2)])
        self.boxes = nn.ModuleList([nn.Conv2d(c, 4, 1) for c in (8, 16, 16)])
        self.classes = nn.ModuleList([nn.Conv2d(c, 5, 1) for c in (8, 16, 16)])

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage, boxes, classes in zip(self.stages, self.boxes, self.classes, strict=True):
            x = stage(x)
            maps.append(torch.cat([boxes(x), classes(x)], 1))
        return maps


class Pose(nn.Module):
    """Coordinates and visibility: two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(block(3, 16, 2), block(16, 16, 2))
        self.places, self.seen = nn.Linear(16, 10), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x).mean((2, 3))
        return self.places(features).unflatten(1, (5, 2)), self.seen(features)


class HeatMaps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(block(3, 16, 2), block(16, 16)), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class SuperResolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 12, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.body(x), 2) + F.interpolate(x, scale_factor=2, mode="nearest")


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.colour, self.distance = block(3, 8), block(1, 8)
        self.body, self.head = block(16, 16, 2), nn.Linear(16, 2)

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        return self.head(self.body(torch.cat([self.colour(rgb), self.distance(depth)], 1)).mean((2, 3)))


class Audio(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, 8, 9, 4, 4), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 16, 5, 2, 2), nn.ReLU()
        )
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(2))


class AutoEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(block(3, 8, 2), block(8, 16, 2))
        self.decode = nn.Sequential(
            nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


class Embedder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(block(3, 16, 2), block(16, 16, 2)), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Labels(nn.Module):
    """Several classes an image."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(block(3, 16, 2), block(16, 16)), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Siamese(nn.Module):
    """One branch twice; how far two images are apart."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.head = nn.Sequential(block(3, 8, 2), block(8, 16, 2)), nn.Linear(16, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head((self.branch(left) - self.branch(right)).abs().mean((2, 3)))


class Volume(nn.Module):
    """Three dimensions, as in medicine."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(1, 8, 3, 2, 1), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 8, 3, 1, 1)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.body(x)).mean((2, 3, 4)))


@dataclass(frozen=True)
class Kind:
    """A network and what it is for."""

    make: Callable[[], nn.Module]
    batch: Callable[[int], Any]
    """Number of images → a batch of inputs and targets."""
    task: Any


def _images(n: int, channels: int = 3, height: int = 16, width: int = 24) -> Tensor:
    return torch.rand(n, channels, height, width)


def _heads_loss(outputs: list[Tensor], targets: Tensor) -> Tensor:
    return torch.stack([(one.mean((1, 2, 3)) - targets).square().mean() for one in outputs]).sum()


def _heads_error(outputs: list[Tensor], targets: Tensor) -> float:
    return float(_heads_loss(outputs, targets))


def _heads_task() -> Any:
    import pintsize as ps

    return ps.Task(loss=_heads_loss, metric=_heads_error, higher_is_better=False, name="heads")


KINDS: dict[str, Kind] = {
    "classifier": Kind(Classifier, lambda n: (_images(n), torch.arange(n) % 4), "classification"),
    "segmenter": Kind(Segmenter, lambda n: (_images(n), torch.randint(0, 3, (n, 16, 24))), "segmentation"),
    "unet": Kind(UNet, lambda n: (_images(n), torch.randint(0, 3, (n, 16, 24))), "segmentation"),
    "heads": Kind(Heads, lambda n: (_images(n), torch.rand(n)), _heads_task),
    "pose": Kind(Pose, lambda n: (_images(n), torch.rand(n, 5, 2) * 16), "keypoints"),
    "heat maps": Kind(
        HeatMaps, lambda n: (_images(n), torch.rand(n, 5, 2) * 16), {"name": "keypoints", "stride": 2.0}
    ),
    "super-resolution": Kind(
        SuperResolution, lambda n: (_images(n), _images(n, 3, 32, 48)), {"name": "restoration"}
    ),
    "two inputs": Kind(
        TwoInputs,
        lambda n: {"rgb": _images(n), "depth": _images(n, 1), "target": torch.rand(n, 2)},
        "regression",
    ),
    "audio": Kind(Audio, lambda n: (torch.randn(n, 1, 400), torch.arange(n) % 4), "classification"),
    "autoencoder": Kind(AutoEncoder, lambda n: (x := _images(n), x), "restoration"),
    "embedder": Kind(Embedder, lambda n: (_images(n), torch.arange(n) % 4), "embedding"),
    "labels": Kind(Labels, lambda n: (_images(n), (torch.rand(n, 6) < 0.4).float()), "multilabel"),
    "siamese": Kind(Siamese, lambda n: ((_images(n), _images(n)), torch.rand(n, 1)), "regression"),
    "volume": Kind(Volume, lambda n: (torch.rand(n, 1, 8, 8, 8), torch.rand(n, 3)), "regression"),
}
