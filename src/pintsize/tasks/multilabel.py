"""Several classes an image, or none: logits [B, K] against {0, 1} of the same shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputTypeError
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
        _check(outputs, targets)
        return F.binary_cross_entropy_with_logits(outputs.float(), targets.float())

    def agreement(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Whether all classes are decided alike."""
        return ((ours > 0) == (theirs > 0)).all(1)


class MeanAveragePrecision(Metric):
    """Mean over the classes that occur of the average precision, in percent."""

    name, unit = "mAP", "%"

    def records(self, outputs: Any, targets: Any) -> Tensor:
        """Logits and targets, [B, 2, K]."""
        outputs, targets = torch.as_tensor(outputs), torch.as_tensor(targets)
        _check(outputs, targets)
        return torch.stack([outputs.float().cpu(), targets.float().cpu()], dim=1)

    def value(self, records: Sequence[Any]) -> float:
        """Of all images."""
        from torchmetrics.functional.classification import binary_average_precision

        scores, truth = torch.stack(list(records)).unbind(1)
        classes = zip(scores.unbind(1), truth.long().unbind(1), strict=True)
        found = [float(binary_average_precision(ours, wanted)) for ours, wanted in classes if wanted.any()]
        return 100 * sum(found) / len(found) if found else float("nan")


def _check(outputs: Tensor, targets: Any) -> None:
    if not isinstance(targets, Tensor) or targets.shape != outputs.shape or outputs.dim() != 2:
        told = list(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        raise InputTypeError(
            f"targets {told}", f"the network gives logits {list(outputs.shape)}",
            "give out 0 or 1 for each class, [B, K]",
        )  # fmt: skip
