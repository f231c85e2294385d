"""Semantic segmentation: a class for each pixel, from logits [B, K, H, W] and masks int [B, H, W].

Networks that give a dict, as torchvision's do, are read at `out`; an auxiliary output `aux` counts half in training
(Zhao et al., Pyramid Scene Parsing Network, 1612.01105, section 3.3 gives it .4; torchvision .5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError, InputTypeError
from .metric import Metric
from .task import TASKS, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AUXILIARY = 0.5


@TASKS.register("segmentation")
class Segmentation(Task):
    """Cross-entropy of each pixel; mean intersection over union.

    Args:
        ignore_index: value in masks of pixels that do not count.
        label_smoothing: share of each target spread over all classes.
    """

    name = "segmentation"

    def __init__(self, ignore_index: int = 255, label_smoothing: float = 0.0) -> None:
        if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
            raise InputTypeError(
                f"ignore_index={ignore_index!r}",
                "it is no value of a mask",
                "pass a whole number, such as 255",
            )
        super().__init__(metric=MeanIoU(ignore_index))
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Mean over the pixels that count."""
        main = self._loss_of(logits_of(outputs), targets)
        if isinstance(outputs, dict) and "aux" in outputs:
            main = main + _AUXILIARY * self._loss_of(outputs["aux"], targets)
        return main

    def smoothed(self, amount: float) -> Segmentation:
        """With smoothed targets."""
        return type(self)(self.ignore_index, amount) if amount else self

    def distill(self, outputs: Any, taught: Any, temperature: float) -> Tensor:
        """`T² · KL` of each pixel's distribution, the mean over pixels."""
        student, teacher = (logits_of(each).float() / temperature for each in (outputs, taught))
        divergence = F.kl_div(
            student.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True
        )
        return divergence.sum(1).mean() * temperature**2

    def agreement(self, ours: Any, theirs: Any) -> Tensor:
        """Share of each image's pixels of the same class, [B]."""
        same = logits_of(ours).argmax(1) == logits_of(theirs).argmax(1)
        return same.float().mean((1, 2))

    def picture(
        self, images: Any, outputs: Mapping[str, Any], targets: Any, classes: Sequence[str]
    ) -> Figure:
        """The class of each pixel in colour."""
        from ..viz.scenes import draw_masks

        masks = {name: logits_of(each).argmax(1).cpu() for name, each in outputs.items()}
        return draw_masks(images, {**masks, "truth": targets.cpu()}, classes, ignore_index=self.ignore_index)

    def _loss_of(self, logits: Tensor, targets: Tensor) -> Tensor:
        check_masks(logits, targets, self.ignore_index)
        # a batch in which no pixel counts has a loss of 0, not of 0/0
        counted = (targets != self.ignore_index).sum().clamp_min(1)
        total = F.cross_entropy(
            logits.float(), targets.long(), ignore_index=self.ignore_index, label_smoothing=self.label_smoothing,
            reduction="sum",
        )  # fmt: skip
        return total / counted


def check_masks(logits: Tensor, targets: Any, ignored: int) -> None:
    """Refuse masks that are not of the logits' size and classes.

    Raises:
        InputTypeError: another size.
        InputError: a class that the network has not.
    """
    if not isinstance(targets, Tensor) or targets.shape != (len(logits), *logits.shape[2:]):
        told = list(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        raise InputTypeError(
            f"masks {told}", f"the network gives logits {list(logits.shape)}",
            "give out one class for each pixel [B, H, W], at the size of the output",
        )  # fmt: skip
    counted = targets[targets != ignored]
    if not counted.numel():
        return
    if counted.is_floating_point() and not (counted == counted.round()).all():
        raise InputError(
            "masks with values between whole numbers", "a pixel has one class",
            "give out the number of its class; for shares of classes ps.Task(loss=…, metric=…)",
        )  # fmt: skip
    for found in (int(counted.min()), int(counted.max())):
        if not 0 <= found < logits.shape[1]:
            raise InputError(
                f"masks with class {found}", f"the network has {logits.shape[1]} classes",
                "give it more, or name the value that does not count: ignore_index",
            )  # fmt: skip


class MeanIoU(Metric):
    """Mean over the classes that occur, in masks or outputs, of intersection over union, in percent.

    Args:
        ignore_index: value in masks of pixels that do not count.
    """

    name, unit = "mIoU", "%"

    def __init__(self, ignore_index: int = 255) -> None:
        self._ignored = ignore_index

    def records(self, outputs: Any, targets: Tensor) -> Tensor:
        """The confusion matrix of each image, int64 [B, K, K], rows by mask."""
        logits = logits_of(outputs)
        targets = torch.as_tensor(targets)
        check_masks(logits, targets, self._ignored)
        classes = logits.shape[1]
        found, truth = logits.argmax(1).flatten(1), targets.to(logits.device).long().flatten(1)
        counts = truth != self._ignored
        image = torch.arange(len(found), device=logits.device)[:, None] * classes**2
        cells = (image + truth * classes + found)[counts]
        return cells.bincount(minlength=len(found) * classes**2).view(-1, classes, classes).cpu()

    def value(self, records: Sequence[Any]) -> float:
        """Of all images."""
        confusion = torch.stack(list(records)).sum(0).double()
        hit = confusion.diagonal()
        union = confusion.sum(0) + confusion.sum(1) - hit
        return 100 * float((hit / union)[union > 0].mean())


def logits_of(outputs: Any) -> Tensor:
    """The main output: a tensor, the first of several, or `out` of a dict.

    Raises:
        InputTypeError: there is no tensor [B, K, H, W].
    """
    found = outputs
    if isinstance(outputs, dict):
        found = outputs.get("out", next(iter(outputs.values()), None))
    elif isinstance(outputs, list | tuple) and outputs:
        found = outputs[0]
    found = found if isinstance(found, Tensor) else torch.as_tensor(found)
    if found.dim() != 4:
        raise InputTypeError(
            f"output {list(found.shape)}", "segmentation needs logits [B, classes, H, W]",
            "name another task, or wrap the network so that it returns them",
        )  # fmt: skip
    return found
