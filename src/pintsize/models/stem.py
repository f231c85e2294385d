"""How a network meets its image: the first layers for large and for small images, and the least size.

Shapes: images are `[B, C, H, W]`.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from pintsize.errors import InputError

Stem = Literal["imagenet", "small"]
STEMS: tuple[Stem, ...] = ("imagenet", "small")


def residual_stem(in_channels: int, width: int, stem: Stem) -> tuple[nn.Conv2d, nn.Module]:
    """First convolution and pooling of a residual network with `width` channels.

    `imagenet` is 7×7, stride 2, then a 3×3 max-pool, stride 2 (He et al., 1512.03385, table 1);
    `small` is 3×3, stride 1, without pooling (§4.2).
    """
    if stem == "imagenet":
        conv = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        return conv, nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.Identity()


def require_size(images: Tensor, least: int, network: str) -> None:
    """Raise `InputError` if an image is so small that a pooling layer would leave nothing of it."""
    height, width = images.shape[-2:]
    if height < least or width < least:
        raise InputError(
            f"images of {height}×{width} pixels",
            f"{network} needs at least {least}×{least}",
            "resize the images; stem='small' takes smaller ones than stem='imagenet'",
        )
