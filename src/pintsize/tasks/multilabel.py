"""Several classes an image, or none: logits [B, K] against {0, 1} of the same shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .metric import Metric
from .task import TASKS, Task


@TASKS.register("multilabel")
class Multilabel(Task):
    """Binary cross-entropy of each class; mean average precision over classes."""

    name = "multilabel"

    def __init__(self) -> None:
        super().__init__(metric=MeanAveragePrecision())

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over images and classes."""
        return F.binary_cross_entropy_with_logits(outputs.float(), targets.float())

    def agreement(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Whether all classes are decided alike."""
        return ((ours > 0) == (theirs > 0)).all(1)


class MeanAveragePrecision(Metric):
    """Mean over the classes that occur of the average precision, in percent."""

    name, unit = "mAP", "%"

    def records(self, outputs: Any, targets: Any) -> Tensor:
        """Logits and targets, [B, 2, K]."""
        outputs = torch.as_tensor(outputs).float().cpu()
        return torch.stack([outputs, torch.as_tensor(targets).float().cpu()], dim=1)

    def value(self, records: Sequence[Any]) -> float:
        """Of all images."""
        from torchmetrics.functional.classification import binary_average_precision

        scores, truth = torch.stack(list(records)).unbind(1)
        classes = zip(scores.unbind(1), truth.long().unbind(1), strict=True)
        found = [float(binary_average_precision(ours, wanted)) for ours, wanted in classes if wanted.any()]
        return 100 * sum(found) / len(found) if found else float("nan")
