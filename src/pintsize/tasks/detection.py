"""Object detection: boxes with classes. Networks give out anything that `decode` makes boxes of.

Boxes are float [n, 4]: left, top, right, bottom, in pixels of the network's input. Targets are one dict for each image:
`boxes`, and `labels` int64 [n]. Detections are such dicts with `scores` [n].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..data.batches import Inputs
from ..data.targets import check_boxes
from ..errors import InputError, InputTypeError
from .average_precision import AveragePrecision
from .task import TASKS, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Found = dict[str, Tensor]
"""The boxes, labels and scores of one image."""
_ENOUGH = 0.5
"""Intersection over union of two boxes that are the same."""


@TASKS.register("detection")
class Detection(Task):
    """Loss of the network itself, or a function; mean average precision, as COCO defines it.

    Args:
        loss: outputs and targets → a scalar tensor. None for networks that in training mode take images and targets
            and return a dict of losses, as torchvision's do.
        decode: outputs → a dict of `boxes`, `scores` and `labels` for each image; None where the network in eval mode
            gives these itself.
        step: model, inputs and targets → a scalar tensor, in place of `loss`.
        metric: `mAP` (the mean over overlaps of .5 to .95) or `mAP@.5`.
        first_class: what the network calls class 0: 1 for torchvision's detectors, whose 0 is the background.
        num_classes: labels from this number on are errors; None: not known.
        confidence: score from which on a box counts when two networks are compared, and when it is drawn.
    """

    name = "detection"

    def __init__(
        self,
        loss: Callable[[Any, Any], Tensor] | None = None,
        decode: Callable[[Any], Sequence[Found]] | None = None,
        *,
        step: Callable[[nn.Module, Any, Any], Tensor] | None = None,
        metric: str = "mAP",
        first_class: int = 0,
        num_classes: int | None = None,
        confidence: float = 0.25,
    ) -> None:
        if metric not in ("mAP", "mAP@.5"):
            raise InputError(f"metric={metric!r}", "detection has no such", "choose mAP or mAP@.5")
        if decode is not None and not callable(decode):
            raise InputTypeError(
                f"decode of type {type(decode).__name__}", "it is no function", "pass decode=fn(outputs)"
            )
        self._decode, self._first, self._classes = decode, first_class, num_classes
        self.confidence = confidence
        super().__init__(
            loss,
            AveragePrecision(self.found, metric),
            step=step or (self._own_losses if loss is None else None),
        )

    def _own_losses(self, model: nn.Module, inputs: Inputs, targets: Any) -> Any:
        named = [{**one, "labels": one["labels"] + self._first} for one in targets]
        return model(_images(inputs), named)

    def check(self, inputs: Inputs, targets: Any, num_classes: int = 0) -> None:
        """Raise what makes the targets of a batch unfit; labels may be any where no number of classes is known.

        Raises:
            InputTypeError: they are of another form.
            InputError: a box is outside its image, or has no extent; a label is none of the classes.
        """
        images = _images(inputs)
        if not isinstance(targets, list | tuple) or len(targets) != len(images):
            told = f"{len(targets)} " if isinstance(targets, list | tuple) else ""
            raise InputTypeError(
                f"targets: {told}{type(targets).__name__}", f"it is not one dict for each of {len(images)} images",
                "give out a list of {'boxes': float [n, 4], 'labels': int64 [n]}",
            )  # fmt: skip
        for number, (image, target) in enumerate(zip(images, targets, strict=True)):
            shape = tuple(image.shape[-2:])
            known = self._classes or num_classes or None
            check_boxes(target, shape, known, f"target of image {number} of a batch")

    def outputs(self, network: Callable[..., Any], inputs: Inputs, num_classes: int = 0) -> Any:
        """What the network makes of the images."""
        apart = isinstance(inputs, tuple) and all(
            isinstance(one, Tensor) and one.dim() == 3 for one in inputs
        )
        return super().outputs(network, list(inputs) if apart else inputs)

    def found(self, outputs: Any) -> list[Found]:
        """The detections of each image, on the CPU.

        Raises:
            InputTypeError: outputs are of another form, and there is no `decode`.
        """
        outputs = tree_map_only(np.ndarray, torch.from_numpy, outputs)
        found = outputs if self._decode is None else self._decode(outputs)
        fits = isinstance(found, list | tuple) and all(
            isinstance(one, dict) and one.keys() >= {"boxes", "scores", "labels"} for one in found
        )
        if not fits:
            raise InputTypeError(
                f"{'outputs' if self._decode is None else 'what decode returns'}: {type(found).__name__}",
                "it is not a dict of boxes, scores and labels for each image",
                "pass decode=fn(outputs) to the task, which makes them of the network's outputs",
            )
        plain = [{key: one[key].detach().cpu() for key in ("boxes", "scores", "labels")} for one in found]
        return [{**one, "labels": one["labels"] - self._first} for one in plain]

    def agreement(self, ours: Any, theirs: Any) -> Tensor:
        """Share of the boxes of both networks that the other one has too, of the same class, [B]."""
        pairs = zip(self.sure(ours), self.sure(theirs), strict=True)
        return torch.tensor([_matched(one, other) for one, other in pairs])

    def picture(
        self, images: Any, outputs: Mapping[str, Any], targets: Any, classes: Sequence[str]
    ) -> Figure:
        """The boxes, with class and score."""
        from ..viz.scenes import draw_boxes

        boxes = {name: self.sure(each) for name, each in outputs.items()}
        return draw_boxes(images, {**boxes, "truth": targets}, classes, confidence=self.confidence)

    def sure(self, outputs: Any) -> list[Found]:
        """The detections whose score is at least `confidence`."""
        return [
            {key: value[one["scores"] >= self.confidence] for key, value in one.items()}
            for one in self.found(outputs)
        ]


def _images(inputs: Inputs) -> Any:
    """A tensor [B, C, H, W], or a list of images of several sizes; of several inputs the first."""
    if not isinstance(inputs, tuple):
        return inputs
    return inputs[0] if isinstance(inputs[0], list) or inputs[0].dim() == 4 else list(inputs)


def _matched(ours: Found, theirs: Found) -> float:
    """2 · pairs / (boxes of both); pairs are found greedily, the best overlap first."""
    count = len(ours["boxes"]) + len(theirs["boxes"])
    if not count:
        return 1.0
    overlaps = overlap(ours["boxes"], theirs["boxes"])
    overlaps = overlaps * (ours["labels"][:, None] == theirs["labels"][None])
    pairs = 0
    while overlaps.numel() and float(overlaps.max()) >= _ENOUGH:
        row, column = divmod(int(overlaps.argmax()), overlaps.shape[1])
        overlaps[row], overlaps[:, column] = 0, 0
        pairs += 1
    return 2 * pairs / count


def overlap(ours: Tensor, theirs: Tensor) -> Tensor:
    """Intersection over union of each of [n, 4] with each of [m, 4], float [n, m]."""
    start, end = (
        torch.maximum(ours[:, None, :2], theirs[:, :2]),
        torch.minimum(ours[:, None, 2:], theirs[:, 2:]),
    )
    both = (end - start).clamp_min(0).prod(2)
    areas = [(one[:, 2:] - one[:, :2]).prod(1) for one in (ours, theirs)]
    return both / (areas[0][:, None] + areas[1] - both).clamp_min(1e-9)
