"""Pose: the places of K points of an image, as coordinates [B, K, 2] or as heat maps [B, K, H, W].

Of a network with several outputs the first counts, or `keypoints` of a dict. Targets are float [B, K, 2] in pixels (or
whatever unit the network gives), or [B, K, 3] with 0 in the last place for a point that does not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError, InputTypeError
from .metric import Mean, Metric
from .task import TASKS, Task


@TASKS.register("keypoints")
class Keypoints(Task):
    """Mean absolute or squared error of the coordinates; share of points found, or mean distance.

    Args:
        loss: `l1` or `mse`.
        metric: `pck` (points no further than `within` from where they are) or `mae`.
        within: share of the extent of an image's points, for `pck` (Yang and Ramanan 2013, section 5).
        sigma: width of the bump that heat maps learn, in their pixels.
        stride: pixels of the image in one of the heat map.
    """

    name = "keypoints"

    def __init__(
        self,
        loss: str = "l1",
        metric: str = "pck",
        within: float = 0.2,
        sigma: float = 1.5,
        stride: float = 1.0,
    ) -> None:
        if loss not in ("l1", "mse") or metric not in ("pck", "mae"):
            raise InputError(
                f"keypoints with loss={loss!r}, metric={metric!r}",
                "there is no such",
                "choose l1 or mse, pck or mae",
            )
        for what, size in (("within", within), ("sigma", sigma), ("stride", stride)):
            if isinstance(size, bool) or not isinstance(size, int | float) or not size > 0:
                raise InputError(f"keypoints with {what}={size!r}", "it is no size", "pass a number above 0")
        self._kind, self._within, self._sigma, self._stride = loss, within, sigma, stride
        found = MeanOfPoints("PCK", self._found, unit="%", scale=100.0)
        distance = MeanOfPoints("MAE", self._distance, unit="px", higher_is_better=False)
        super().__init__(metric=found if metric == "pck" else distance)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Mean over images and the points that count."""
        ours, (truth, counts) = _main(outputs).float(), _points(targets)
        truth, counts = truth.to(ours.device), counts.to(ours.device)
        if ours.dim() == 4:
            return (
                (ours - self._bumps(truth, ours.shape)).square().mean((2, 3)) * counts
            ).sum() / counts.sum().clamp_min(1)
        _check(ours, truth)
        kind = F.l1_loss if self._kind == "l1" else F.mse_loss
        return (kind(ours, truth, reduction="none").mean(2) * counts).sum() / counts.sum().clamp_min(1)

    def distill(self, outputs: Any, taught: Any, temperature: float) -> Tensor:
        """The loss with the teacher's places for targets; of heat maps their squared distance."""
        ours, theirs = _main(outputs).float(), _main(taught).float()
        return F.mse_loss(ours, theirs) if ours.dim() == 4 else self.loss(ours, theirs)

    def _bumps(self, truth: Tensor, shape: torch.Size) -> Tensor:
        down, right = (torch.arange(side, device=truth.device) for side in shape[2:])
        x, y = (truth / self._stride)[..., None].unbind(2)
        return torch.exp(
            -((right - x)[:, :, None, :] ** 2 + (down - y)[:, :, :, None] ** 2) / (2 * self._sigma**2)
        )

    def _places(self, outputs: Any) -> Tensor:
        ours = _main(outputs).float()
        if ours.dim() != 4:
            return ours
        best = ours.flatten(2).argmax(2)
        return torch.stack([best % ours.shape[3], best // ours.shape[3]], dim=2) * self._stride

    def _distances(self, outputs: Any, targets: Any) -> tuple[Tensor, Tensor, Tensor]:
        ours, (truth, counts) = self._places(outputs).cpu(), _points(targets)
        truth, counts = truth.cpu(), counts.cpu()
        _check(ours, truth)
        return (ours - truth).norm(dim=2), truth, counts

    def _distance(self, outputs: Any, targets: Any) -> Tensor:
        """Summed over the points of each image, and how many these are, [B, 2]."""
        distances, _, counts = self._distances(outputs, targets)
        return torch.stack([(distances * counts).sum(1), counts.sum(1)], dim=1)

    def _found(self, outputs: Any, targets: Any) -> Tensor:
        distances, truth, counts = self._distances(outputs, targets)
        hidden = counts[..., None] == 0
        extent = (
            truth.masked_fill(hidden, -torch.inf).amax(1) - truth.masked_fill(hidden, torch.inf).amin(1)
        ).amax(1)
        near = (distances <= self._within * extent[:, None]).float()
        counts = counts * (extent > 0)[:, None]  # one point alone has no extent
        return torch.stack([(near * counts).sum(1), counts.sum(1)], dim=1)


class MeanOfPoints(Mean):
    """The mean over all points that count, from their sum and number in each image."""

    def value(self, records: Sequence[Any]) -> float:
        """Not a number where there are none."""
        table = records if isinstance(records, Tensor) else torch.stack(list(records))
        total, count = table.double().sum(0).tolist()
        return self._scale * total / count if count else math.nan

    resampler, drop, standard_error = Metric.resampler, Metric.drop, Metric.standard_error


def _main(outputs: Any) -> Tensor:
    if isinstance(outputs, dict):
        outputs = outputs.get("keypoints", next(iter(outputs.values()), None))
    elif isinstance(outputs, list | tuple) and outputs:
        outputs = outputs[0]
    return torch.as_tensor(outputs)


def _points(targets: Any) -> tuple[Tensor, Tensor]:
    """Coordinates [B, K, 2], and whether each counts, [B, K]."""
    points = torch.as_tensor(targets["keypoints"] if isinstance(targets, dict) else targets).float()
    if points.dim() != 3 or points.shape[2] not in (2, 3):
        raise InputTypeError(
            f"keypoints {list(points.shape)}",
            "they are not [B, points, 2 or 3]",
            "give out x, y and, if some are hidden, 0 or 1",
        )
    return points[..., :2], (points[..., 2] > 0).float() if points.shape[2] == 3 else torch.ones(
        points.shape[:2]
    )


def _check(ours: Tensor, truth: Tensor) -> None:
    if ours.shape != truth.shape:
        raise InputTypeError(
            f"keypoints {list(truth.shape)}",
            f"the network gives {list(ours.shape)}",
            "give out as many points",
        )
