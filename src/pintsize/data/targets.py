"""Targets that are not one class an image: a class for each pixel, or boxes; what becomes of an image becomes of them.

Boxes are float [n, 4]: left, top, right, bottom, in pixels of the image as a split gives it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, InputTypeError
from ..storage.digests import tensor_digest
from . import chance
from .transform import Transform

IGNORED = 255
"""What stored masks say of pixels that do not count; a task that calls them otherwise is given its own value."""
_LEFT_OVER = 0.1
"""Share of a box below which it is not worth finding."""
Target: TypeAlias = dict[str, Tensor]
"""The boxes of one image, float32 [n, 4], and their labels, int64 [n]."""


class Boxes(Sequence[Any]):
    """The boxes of the images of a split; an index tensor chooses some, as of a tensor of labels.

    Args:
        targets: for each image.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = tuple(targets)

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, images: Any) -> Any:
        if isinstance(images, Tensor):
            return Boxes([self._targets[image] for image in images.tolist()])
        return self._targets[images]

    def digest(self) -> str:
        """Of all boxes and labels."""
        return tensor_digest({
            f"{key}{number}": value for number, one in enumerate(self._targets) for key, value in one.items()
        })  # fmt: skip


class Masks:
    """The masks of the images of a split; an index tensor chooses some, as of a tensor of labels.

    Args:
        store: a `Store` of uint8 [N, H, W, 1].
        positions: int64 [N], where in the store they are.
    """

    def __init__(self, store: Any, positions: Tensor) -> None:
        self.store, self.positions = store, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, images: Tensor) -> Masks:
        return Masks(self.store, self.positions[images])

    def read(self, chosen: Sequence[Tensor]) -> Iterator[Tensor]:
        """Each batch, uint8 [B, H, W]."""
        for masks in self.store.read([self.positions[images] for images in chosen], None):
            yield masks[..., 0]

    def digest(self) -> str:
        """Of all pixels."""
        batches = self.read(torch.arange(len(self)).split(256))
        return tensor_digest({str(number): masks for number, masks in enumerate(batches)})


def given_out(targets: Any, chosen: Sequence[Tensor]) -> Iterator[Any]:
    """The stored targets of each batch of images."""
    if isinstance(targets, Masks):
        yield from targets.read(chosen)
        return
    for images in chosen:
        yield list(targets[images]) if isinstance(targets, Boxes) else targets[images]


def follow(
    targets: Any,
    transform: Transform,
    words: NDArray[np.uint64] | None,
    stored: tuple[int, int],
    *,
    ignored: int,
) -> Any:
    """The targets of images that `transform` has changed by the same words.

    Args:
        targets: classes or numbers, which stay; masks uint8 [B, H, W], which become int64; or a list of boxes.
        transform: of the images.
        words: one for each image; None where nothing is augmented.
        stored: height and width before it.
        ignored: what the task takes for pixels that do not count: those of the file, and borders.
    """
    if isinstance(targets, list):
        return _boxes(targets, transform, words, stored)
    if isinstance(targets, Tensor) and targets.dtype == torch.uint8 and targets.dim() == 3:
        if words is not None:
            targets = transform.moved(targets[..., None], words, border=IGNORED)[..., 0]
        if transform.size is not None and transform.size != stored:
            targets = F.interpolate(targets[:, None].float(), transform.size, mode="nearest-exact")[:, 0]
        targets = targets.long()
        return targets if ignored == IGNORED else targets.masked_fill(targets == IGNORED, ignored)
    return targets


def _boxes(
    targets: list[Target], transform: Transform, words: NDArray[np.uint64] | None, stored: tuple[int, int]
) -> list[Target]:
    H, W = stored
    height, width = transform.size or stored
    scale = torch.tensor([width / W, height / H]).repeat(2)
    moved = []
    for number, target in enumerate(targets):
        boxes, labels = target["boxes"], target["labels"]
        if words is not None:
            down, right = (int(one[number]) for one in transform.offsets(words))
            boxes = boxes - torch.tensor([right, down, right, down])
            if transform.flipped(words)[number]:
                left, top, end, bottom = boxes.unbind(1)
                boxes = torch.stack([W - end, top, W - left, bottom], dim=1)
            boxes, kept = clipped(boxes, stored)
            boxes, labels = boxes[kept], labels[kept]
        moved.append({"boxes": boxes * scale, "labels": labels})
    return moved


def clipped(boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What of boxes is within an image, and of which at least a tenth is left, bool [n]."""
    H, W = size
    within = torch.minimum(boxes.clamp_min(0), torch.tensor([W, H, W, H], dtype=boxes.dtype))
    left, whole = ((one[:, 2:] - one[:, :2]).clamp_min(0).prod(1) for one in (within, boxes))
    return within, (left >= _LEFT_OVER * whole) & (left > 0)


def choose(targets: Any, n: int, purpose: int, *key: int) -> Tensor:
    """Positions of `n` images, ascending: by class where each has one, else by chance alone."""
    if has_classes(targets):
        return chance.stratified(targets, n, purpose, *key)
    return chance.order(len(targets), purpose, *key)[:n].sort().values


def ignore_index(task: Any) -> int:
    """What masks say of pixels that do not count, by a task: its name, a mapping or the task itself."""
    told = task.get("ignore_index") if isinstance(task, Mapping) else getattr(task, "ignore_index", None)
    return IGNORED if told is None else int(told)


def are_images(task: Any) -> bool:
    """Whether a task's targets are images, as those of a restoration: its name, a mapping or the task itself."""
    return named(task) == "restoration"


def named(task: Any) -> str | None:
    """What a task is called: its name, a mapping or the task itself."""
    told = task.get("name") if isinstance(task, Mapping) else getattr(task, "name", task)
    return told if isinstance(told, str) else None


def has_classes(targets: Any) -> bool:
    """Whether there is one class for each image."""
    return isinstance(targets, Tensor) and targets.dtype == torch.int64 and targets.dim() == 1


def check_boxes(target: Any, size: tuple[int, int] | None, num_classes: int | None, where: str) -> None:
    """Raise what makes the boxes of an image unfit.

    Args:
        target: of one image.
        size: height and width of the image, if known.
        num_classes: how many there are, if known.
        where: for messages.

    Raises:
        InputTypeError: it is no dict of boxes float [n, 4] and labels, whole numbers [n].
        InputError: a box has no extent, or is outside the image by more than a pixel; a label is no class.
    """
    fits = (
        isinstance(target, Mapping)
        and all(isinstance(target.get(key), Tensor) for key in ("boxes", "labels"))
        and target["boxes"].is_floating_point()
        and not target["labels"].is_floating_point()
        and target["boxes"].shape == (target["labels"].numel(), 4)
        and target["labels"].dim() == 1
    )
    if not fits:
        told = (
            f"dict of {', '.join(map(str, target))}" if isinstance(target, Mapping) else type(target).__name__
        )
        if isinstance(target, Mapping):
            told += "".join(f", {key} {list(one.shape)} {str(one.dtype).removeprefix('torch.')}"
                            for key, one in target.items() if isinstance(one, Tensor))  # fmt: skip
        raise InputTypeError(
            where, f"it is a {told}", "give out {'boxes': float [n, 4], 'labels': int64 [n]} for each image"
        )
    boxes, labels = target["boxes"].cpu(), target["labels"].cpu()
    wrong = ~torch.isfinite(boxes).all(1) | ((boxes[:, 2:] - boxes[:, :2]) <= 0).any(1)
    if wrong.any():
        raise InputError(
            where, f"box {_told(boxes, wrong)} has no extent, or a negative one",
            "give out left, top, right, bottom, in pixels",
        )  # fmt: skip
    if size is not None:
        H, W = size
        wrong = (boxes < -1).any(1) | (boxes > torch.tensor([W, H, W, H]) + 1).any(1)
        if wrong.any():
            raise InputError(
                where, f"box {_told(boxes, wrong)} is outside the image of {H}×{W} pixels",
                "give out left, top, right, bottom, in pixels of the image that the network sees",
            )  # fmt: skip
    if len(labels) and (
        int(labels.min()) < 0 or (num_classes is not None and int(labels.max()) >= num_classes)
    ):
        wrong_label = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        known = "they count from 0" if num_classes is None else f"there are classes 0 to {num_classes - 1}"
        raise InputError(where, f"label {wrong_label}: {known}", "map labels to 0, 1, 2 …")


def _told(boxes: Tensor, wrong: Tensor) -> str:
    return str([round(value, 1) for value in boxes[wrong][0].tolist()])
