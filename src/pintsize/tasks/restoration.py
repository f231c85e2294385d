"""Images from images: super-resolution, denoising, deblurring; outputs and targets [B, C, H, W]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError, InputTypeError
from .metric import Mean
from .task import TASKS, Task

_LEAST = 6
"""Pixels: SSIM's window of 11 reaches 5 beyond the border, where images are mirrored."""


@TASKS.register("restoration")
class Restoration(Task):
    """Mean absolute error; peak signal-to-noise ratio, or structural similarity.

    Args:
        metric: `psnr` or `ssim`.
        peak: the value that stands for white.
    """

    name = "restoration"

    def __init__(self, metric: str = "psnr", peak: float = 1.0) -> None:
        known = {"psnr": Mean("PSNR", self._psnr, unit="dB"), "ssim": Mean("SSIM", self._ssim)}
        if metric not in known:
            raise InputError(
                f"metric={metric!r}", "restoration has no such", f"choose from {', '.join(known)}"
            )
        super().__init__(metric=known[metric])
        self._peak = peak

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Mean over images and pixels."""
        return F.l1_loss(*_alike(outputs, targets))

    def distill(self, outputs: Any, taught: Any, temperature: float) -> Tensor:
        """The loss with the teacher's outputs for targets."""
        return self.loss(outputs, taught)

    def _psnr(self, outputs: Any, targets: Any) -> Tensor:
        """`10 · log₁₀(peak² / MSE)` of each image, dB; of equal images 100."""
        ours, truth = _alike(outputs, targets)
        error = (ours - truth).square().flatten(1).mean(1)
        return 10 * torch.log10(self._peak**2 / error.clamp_min(1e-10 * self._peak**2))

    def _ssim(self, outputs: Any, targets: Any) -> Tensor:
        """Of each image (Wang et al., Image Quality Assessment, 2004, section III.B)."""
        from torchmetrics.functional.image import structural_similarity_index_measure

        ours, truth = _alike(outputs, targets)
        if min(ours.shape[2:]) < _LEAST:
            raise InputError(
                f"SSIM of images of {ours.shape[2]}×{ours.shape[3]} pixels",
                f"its window needs {_LEAST} in height and width",
                "give out larger images, or choose metric='psnr'",
            )
        found = structural_similarity_index_measure(ours, truth, data_range=self._peak, reduction="none")
        return torch.as_tensor(found).reshape(-1)


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
