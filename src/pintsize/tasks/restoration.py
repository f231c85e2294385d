"""Images from images: super-resolution, denoising, deblurring; outputs and targets [B, C, H, W]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError, InputTypeError
from .metric import Mean
from .task import TASKS, Task

_WINDOW, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03


@TASKS.register("restoration")
class Restoration(Task):
    """Mean absolute error; peak signal-to-noise ratio, or structural similarity.

    Args:
        metric: `psnr` or `ssim`.
        peak: the value that stands for white.
    """

    name = "restoration"

    def __init__(self, metric: str = "psnr", peak: float = 1.0) -> None:
        known = {
            "psnr": Mean("PSNR", lambda outputs, targets: psnr(*_alike(outputs, targets), peak), unit="dB"),
            "ssim": Mean("SSIM", lambda outputs, targets: ssim(*_alike(outputs, targets), peak)),
        }
        if metric not in known:
            raise InputError(
                f"metric={metric!r}", "restoration has no such", f"choose from {', '.join(known)}"
            )
        super().__init__(metric=known[metric])

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Mean over images and pixels."""
        return F.l1_loss(*_alike(outputs, targets))


def psnr(images: Tensor, targets: Tensor, peak: float = 1.0) -> Tensor:
    """`10 · log₁₀(peak² / MSE)` of each image, dB, [B]; of equal images 100."""
    error = (images - targets).square().flatten(1).mean(1)
    return 10 * torch.log10(peak**2 / error.clamp_min(1e-10 * peak**2))


def ssim(images: Tensor, targets: Tensor, peak: float = 1.0) -> Tensor:
    """Structural similarity of each image, [B] (Wang et al., Image Quality Assessment, 2004, section III.B).

    The window is a Gaussian of 11 pixels, σ 1.5, or as many pixels as the image has; means without a border.
    """
    side = min(_WINDOW, *images.shape[2:])
    side -= 1 - side % 2
    line = torch.exp(-((torch.arange(side, device=images.device) - side // 2) ** 2) / (2 * _SIGMA**2))
    kernel = torch.outer(line, line) / line.sum() ** 2
    channels = images.shape[1]

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, kernel.expand(channels, 1, side, side), groups=channels)

    a, b = mean(images), mean(targets)
    aa, bb, ab = mean(images**2) - a**2, mean(targets**2) - b**2, mean(images * targets) - a * b
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    similar = (2 * a * b + c1) * (2 * ab + c2) / ((a**2 + b**2 + c1) * (aa + bb + c2))
    return similar.flatten(1).mean(1)


def _alike(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Raise `InputTypeError` unless both are images of the same size."""
    ours = torch.as_tensor(outputs).float()
    truth = torch.as_tensor(targets).to(ours.device).float()
    if ours.shape != truth.shape or ours.dim() != 4:
        raise InputTypeError(
            f"targets {list(truth.shape)}", f"the network gives {list(ours.shape)}",
            "give out images [B, C, H, W] of the output's size",
        )  # fmt: skip
    return ours, truth
