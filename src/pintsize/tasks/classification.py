"""Classification: one class an image, from logits [B, K] (B images, K classes)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.batches import Inputs
from ..errors import InputError, InputTypeError
from .forward import logits_of
from .metric import Mean
from .task import TASKS, Task


@TASKS.register("classification")
class Classification(Task):
    """Cross-entropy; top-1 accuracy, or top-k.

    Args:
        top: how many guesses an image has.
    """

    name = "classification"
    key = "accuracy"

    def __init__(self, top: int = 1) -> None:
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise InputError(f"top={top!r}", "it is not a number of guesses", "pass 1 or 5")
        name = "accuracy" if top == 1 else f"top-{top} accuracy"
        super().__init__(metric=Mean(name, self._judged, unit="%", scale=100.0))
        self._top, self._smoothing = top, 0.0

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy."""
        return self._entropy(outputs, targets, "mean")

    def total(self, outputs: Tensor, targets: Tensor, count: int) -> Tensor:
        """The summed cross-entropy."""
        return self._entropy(outputs, targets, "sum")

    def outputs(self, network: Callable[..., Any], inputs: Inputs, num_classes: int = 0) -> Tensor:
        """Logits."""
        return logits_of(network, inputs, num_classes)

    def smoothed(self, amount: float) -> Classification:
        """With targets of which `amount` is spread over all classes."""
        task = copy.copy(self)
        task._smoothing = amount
        return task

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How many are right."""
        return self._right(outputs, targets).sum()

    def distill(self, outputs: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """See `soft_loss`; its mean."""
        return soft_loss(outputs, taught, temperature) / len(outputs)

    def distill_total(self, outputs: Tensor, taught: Tensor, temperature: float, count: int) -> Tensor:
        """See `soft_loss`."""
        return soft_loss(outputs, taught, temperature)

    def agreement(self, ours: Tensor, theirs: Tensor) -> Tensor | None:
        """Whether the class is the same."""
        ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
        if ours.dim() != 2 or ours.shape != theirs.shape or ours.shape[1] < 2:
            return None
        return ours.argmax(1) == theirs.argmax(1)

    def _entropy(self, outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
        try:
            return F.cross_entropy(
                outputs.float(), targets, label_smoothing=self._smoothing, reduction=reduction
            )
        except (IndexError, RuntimeError, TypeError, ValueError):
            check_labels(targets, outputs.shape)
            raise

    def _judged(self, outputs: Tensor, targets: Tensor) -> Tensor:
        check_labels(targets, outputs.shape)
        return self._right(outputs, targets)

    def _right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        targets = targets.to(outputs.device)
        if self._top == 1:
            return outputs.argmax(1) == targets
        best = outputs.topk(min(self._top, outputs.shape[1]), dim=1).indices
        return (best == targets[:, None]).any(1)


def check_labels(targets: Any, outputs: Sequence[int]) -> None:
    """Refuse targets that are no classes of a network with logits of shape `outputs`, [B, K].

    Raises:
        InputTypeError: they are no whole number for each image.
        InputError: there is no such output.
    """
    whole = isinstance(targets, Tensor) and not (targets.is_floating_point() or targets.dtype == torch.bool)
    if not whole or list(targets.shape) != [outputs[0]]:
        told = (
            f"{targets.dtype} {list(targets.shape)}"
            if isinstance(targets, Tensor)
            else type(targets).__name__
        )
        raise InputTypeError(
            f"targets {told} of {outputs[0]} images", "a classification needs one class for each",
            "give out whole numbers [B], or name another task; for shares of classes ps.Task(loss=…, metric=…)",
        )  # fmt: skip
    for found in (int(targets.min()), int(targets.max())) if len(targets) else ():
        if not 0 <= found < outputs[1]:
            raise InputError(
                f"targets with class {found}", f"the network has {outputs[1]} outputs",
                "count classes from 0, or create the network with more outputs",
            )  # fmt: skip


def soft_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """`T² · KL(softmax(teacher / T) ‖ softmax(student / T))`, summed over the batch.

    The factor `T²` keeps the gradients' size when `T` changes (Hinton, Vinyals, Dean: Distilling the Knowledge in a
    Neural Network, 1503.02531, sections 2 and 2.1).

    Args:
        logits: the student's, `[B, K]`.
        teacher_logits: `[B, K]`.
        temperature: `T`, above 0.

    Raises:
        InputError: teacher and student do not have the same classes.
    """
    if teacher_logits.shape != logits.shape:
        raise InputError(
            f"teacher with {teacher_logits.shape[1]} outputs",
            f"the model has {logits.shape[1]}",
            "pass a teacher of the same classes",
        )
    student = F.log_softmax(logits.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="sum", log_target=True) * temperature**2
