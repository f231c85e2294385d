"""From stored uint8 pixels to a network's input, a whole batch at a time, on whatever device it is.

Letters: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Transform:
    """How the pixels of one data set are augmented, scaled and normalised."""

    mean: tuple[float, ...]
    """Of the [0, 1] images, per channel."""
    std: tuple[float, ...]
    """Of the [0, 1] images, per channel."""
    pad: int = 0
    """Black border from which a random crop of the original size is cut; 0 for no crop."""
    flip: bool = False
    """Mirror every second image, by chance, left to right."""
    peak: int = 255
    """The stored value that stands for 1.0."""
    size: tuple[int, int] | None = None
    """Height and width to resize to, bilinearly; None keeps the stored ones."""
    cutout: int = 0
    """Side, in pixels of the network's input, of the square around a random pixel that augmentation sets to the mean
    (cutout, DeVries and Taylor 2017, section 3); 0 for none."""

    def __call__(self, pixels: Tensor, words: NDArray[np.uint64] | None = None) -> Tensor:
        """Make a batch the network's input.

        Args:
            pixels: uint8 [B, H, W, C].
            words: one random word per image, which decides its crop, flip and cutout; None for no augmentation.

        Returns:
            float32 [B, C, H, W], normalised; in channels-last memory format where C ≥ 3.
        """
        if words is not None:
            pixels = self.moved(pixels, words)
        B, H, W, C = pixels.shape
        scale, shift = _affine(self.mean, self.std, self.peak, H * W, str(pixels.device))
        # One long row per image: a broadcast over 3 channels alone would run three numbers at a time.
        images = (
            pixels.reshape(B, H * W * C).float().mul_(scale).add_(shift).view(B, H, W, C).permute(0, 3, 1, 2)
        )
        if self.size is not None and self.size != (H, W):
            shrinks = self.size[0] < H or self.size[1] < W
            images = F.interpolate(images, self.size, mode="bilinear", align_corners=False, antialias=shrinks)
        if self.cutout and words is not None:
            images = images.masked_fill(self._square(words, *images.shape[2:]).to(images.device), 0.0)
        if C >= 3:
            return images.contiguous(memory_format=torch.channels_last)
        return images.reshape(-1).view(images.shape) if C == 1 else images.contiguous()

    def _square(self, words: NDArray[np.uint64], H: int, W: int) -> Tensor:
        """Which pixels of each image go, bool [B, 1, H, W]; of a square over the border, what is within."""
        drawn = words >> np.uint64(32) & np.uint64(2**31 - 1)  # bits that the flip does not use
        centres = (drawn % H, H), (drawn // H % W, W)
        down, right = (
            np.abs(np.arange(side) + (self.cutout - 1) % 2 / 2 - centre[:, None]) < self.cutout / 2
            for centre, side in centres
        )
        return torch.from_numpy(down[:, None, :, None] & right[:, None, None, :])

    def offsets(self, words: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many rows and columns of each image a crop leaves out at the top and left, from -pad to pad."""
        steps = 2 * self.pad + 1
        down, right = words % steps, words // steps % steps
        return down.astype(np.int64) - self.pad, right.astype(np.int64) - self.pad

    def flipped(self, words: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which images are mirrored."""
        return (words >> np.uint64(63)).astype(np.bool_) & self.flip

    def moved(self, pixels: Tensor, words: NDArray[np.uint64], *, border: int = 0) -> Tensor:
        """Crop and flip uint8 [B, H, W, C]; what a crop shows beyond the image has the value `border`."""
        B, H, W, C = pixels.shape
        device = pixels.device
        if self.pad:
            places = 2 * self.pad + 1
            down, right = (torch.from_numpy(one + self.pad).to(device) for one in self.offsets(words))
            around = (0, 0, self.pad, self.pad, self.pad, self.pad)
            bordered = F.pad(pixels, around, value=border)
            rows, row = bordered.stride(0), bordered.stride(1)
            # Every crop of every image as a view, so that one indexing operation copies only those drawn.
            crops = bordered.as_strided((B, places, places, H, W * C), (rows, row, C, row, 1))
            pixels = crops[torch.arange(B, device=device), down, right].view(B, H, W, C)
        if self.flip:
            chosen = torch.from_numpy(np.flatnonzero(self.flipped(words))).to(device)
            pixels = pixels.index_copy(0, chosen, pixels[chosen].flip(2))
        return pixels


@functools.lru_cache(maxsize=16)
def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], peak: int, positions: int, device: str
) -> tuple[Tensor, Tensor]:
    """Scale and shift of all values of an image, [H·W·C]: (x / peak - mean) / std = x · scale + shift."""
    spread = torch.tensor(std, dtype=torch.float64)
    scale, shift = 1 / (peak * spread), -torch.tensor(mean, dtype=torch.float64) / spread
    return scale.float().repeat(positions).to(device), shift.float().repeat(positions).to(device)


def statistics(pixels: Tensor, *, peak: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 [N, H, W, C] images scaled to [0, 1]."""
    values = torch.arange(256, dtype=torch.float64) / peak
    means, deviations = [], []
    for channel in range(pixels.shape[-1]):
        counts = torch.bincount(pixels[..., channel].flatten(), minlength=256).double()
        mean = (counts * values).sum() / counts.sum()
        means.append(float(mean))
        deviations.append(float(((counts * (values - mean) ** 2).sum() / counts.sum()).sqrt()))
    return tuple(means), tuple(deviations)
