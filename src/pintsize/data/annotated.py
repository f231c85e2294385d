"""Pictures with boxes, masks or numbers: what a reader of a format found, made into splits."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import DataNotFound, InputError
from . import cache, folder, pictures
from .placement import Placement
from .places import Decoded, Labelled
from .split import MemoryStore, Split, Store
from .stream import PictureStore
from .targets import Boxes, Masks, Target, clipped
from .transform import Transform

_SLACK, _SHARE = 1.0, 0.01
"""Pixels, or share of the side, by which boxes may reach over the border: roundings of those who drew them."""
_BORDER = 1 / 8
"""Of the shorter side: how far augmentation moves an image."""


@dataclasses.dataclass(frozen=True)
class Listed:
    """One part: its pictures, and what is said of each."""

    files: tuple[str, ...]
    targets: Sequence[Target] | Sequence[str] | Tensor
    """Boxes in pixels of the picture; or mask files; or float32 [N, D]."""
    sizes: tuple[tuple[int, int] | None, ...] = ()
    """Height and width of each picture, where the annotations say them."""
    said: Sequence[Sequence[str]] = ()
    """Where each box of each picture is said."""


@dataclasses.dataclass(frozen=True)
class Annotated:
    """What is in a data set, before anything is decoded."""

    kind: str
    """The prefix of its name."""
    root: Path
    """Its folder or file."""
    classes: tuple[str, ...]
    parts: Mapping[str, Listed]
    task: Any
    flip: bool = True
    """Whether a mirrored image is as good."""
    usual: pictures.Size = (640, 640)
    """Of pictures that differ in size."""
    box: str = ""
    """What is meant by the numbers of a box."""


def splits(
    found: Annotated, image_size: pictures.Size | None, how: str, transform: Transform, limit: int
) -> dict[str, Split]:
    """The splits of a data set; pictures of up to `limit` bytes are held in memory.

    Raises:
        CorruptFile: a file is damaged, or is no picture.
        InputError: a box or a mask does not fit its picture.
    """
    states = {part: sizes_of(listed.files) for part, listed in found.parts.items()}
    for part, listed in found.parts.items():
        _check_sizes(found, listed, states[part])
    place = Placement(image_size or _common(found, states), how)
    transform = dataclasses.replace(transform, pad=max(1, round(min(place.size) * _BORDER)))
    made = {}
    for part, (store, targets) in _stored(found, place, limit).items():
        listed = found.parts[part]
        truth = targets or _given(found, listed, states[part], place)
        made[part] = Split(store, truth, found.classes, transform, task=found.task)
    return made


def _stored(found: Annotated, place: Placement, limit: int) -> dict[str, tuple[Store, Any]]:
    """Pictures of each part, and masks where there are some."""
    H, W = place.size
    channels = 4 if any(_mask_files(listed) for listed in found.parts.values()) else 3
    count = sum(len(listed.files) for listed in found.parts.values())
    if channels * H * W * count > limit:
        streamed: dict[str, tuple[Store, Any]] = {}
        for part, listed in found.parts.items():
            masks = _mask_files(listed)
            stream = (
                Masks(PictureStore(masks, (H, W, 1), place.mask), torch.arange(len(masks))) if masks else None
            )
            streamed[part] = PictureStore(listed.files, (H, W, 3), place.picture), stream
        return streamed
    counts = {part: len(listed.files) for part, listed in found.parts.items()}
    identity = f"{found.root} at {place.size} {place.how}, {counts}"
    files = [Path(file) for one in found.parts.values() for file in (*one.files, *_mask_files(one))]
    decoded = cache.remembered(
        found.kind, identity, cache.of_files(files), lambda: _decoded(found.parts, place)
    )
    return {
        part: (MemoryStore(images), Masks(MemoryStore(masks), torch.arange(len(masks))) if masks.dim() == 4 else None)
        for part, (images, masks) in decoded.parts.items()
    }  # fmt: skip


def _decoded(parts: Mapping[str, Listed], place: Placement) -> Decoded:
    H, W = place.size
    made = {}
    for part, listed in parts.items():
        images = folder.decode_files(listed.files, (H, W, 3), place.picture)
        masks = _mask_files(listed)
        truth = folder.decode_files(masks, (H, W, 1), place.mask) if masks else torch.zeros(len(images))
        made[part] = Labelled(images, truth)
    return Decoded(made, ())


def _mask_files(listed: Listed) -> list[str]:
    return (
        [one for one in listed.targets if isinstance(one, str)]
        if not isinstance(listed.targets, Tensor)
        else []
    )


def sizes_of(files: Sequence[str]) -> list[pictures.Size]:
    """Of each picture, from its header."""
    for file in files:
        if not os.path.isfile(file):
            raise DataNotFound(
                file,
                "the annotations name it, but there is no such picture",
                "add it, or remove its annotations",
            )
    with ThreadPoolExecutor() as pool:
        return list(pool.map(pictures.size_of, files))


def _common(found: Annotated, sizes: Mapping[str, list[pictures.Size]]) -> pictures.Size:
    every = {size for part in sizes.values() for size in part}
    return every.pop() if len(every) == 1 else found.usual


def _check_sizes(found: Annotated, listed: Listed, sizes: list[pictures.Size]) -> None:
    if not listed.files:
        raise InputError(
            f"{found.kind} data set {found.root}", "a part has no pictures", "add some, or remove it"
        )
    for file, told, size in zip(listed.files, listed.sizes, sizes, strict=False):
        if told is not None and told != size:
            raise InputError(
                file, f"it has {size[0]}×{size[1]} pixels, its annotations say {told[0]}×{told[1]}",
                "annotate the picture as it is",
            )  # fmt: skip
    masks = _mask_files(listed)
    for file, mask, size, of_mask in zip(listed.files, masks, sizes, sizes_of(masks), strict=False):
        if of_mask != size:
            raise InputError(
                mask, f"it has {of_mask[0]}×{of_mask[1]} pixels, its picture {Path(file).name} {size[0]}×{size[1]}",
                "make masks of the size of their pictures",
            )  # fmt: skip


def _given(found: Annotated, listed: Listed, sizes: list[pictures.Size], place: Placement) -> Tensor | Boxes:
    """Numbers as they are, boxes where they come to lie."""
    if isinstance(listed.targets, Tensor):
        return listed.targets
    targets: list[Target] = []
    for file, target, said, (height, width) in zip(
        listed.files, listed.targets, listed.said, sizes, strict=True
    ):
        assert isinstance(target, dict)
        boxes, labels = target["boxes"].float().reshape(-1, 4), target["labels"].long()
        _check_boxes(file, boxes, (height, width), said, found.box)
        boxes, _ = clipped(boxes, (height, width))
        boxes = place.boxes(boxes, height, width)
        kept = (boxes[:, 2:] - boxes[:, :2] > 0).all(1)  # nobody finds a box without extent
        targets.append({"boxes": boxes[kept], "labels": labels[kept]})
    return Boxes(targets)


def _check_boxes(file: str, boxes: Tensor, size: pictures.Size, said: Sequence[str], meant: str) -> None:
    H, W = size
    sides = torch.tensor([W, H]).repeat(2)
    slack = (sides * _SHARE).clamp_min(_SLACK)
    for cause, wrong in (
        ("is not made of finite numbers", ~torch.isfinite(boxes).all(1)),
        ("has a negative side", (boxes[:, 2:] < boxes[:, :2]).any(1)),
        (f"is outside the picture of {H}×{W} pixels", ((boxes < -slack) | (boxes > sides + slack)).any(1)),
    ):
        if wrong.any():
            at = int(wrong.nonzero()[0])
            told = [round(value, 1) if math.isfinite(value) else value for value in boxes[at].tolist()]
            raise InputError(
                f"{said[at]} (of {Path(file).name})", f"its box from {told[:2]} to {told[2:]} {cause}",
                f"correct it: {meant} are meant",
            )  # fmt: skip
