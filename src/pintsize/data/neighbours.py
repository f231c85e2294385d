"""How images without classes are cut into parts: by chance, and those of videos in blocks with gaps between them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from . import chance, pictures

_BLOCKS = 20
"""Into which the frames are cut; a fifth of them tests."""
_GAP = 4
"""One part in so many of a block is left out on either side of another part's."""
_TEST_FRACTION, _TEST_SEED = 0.2, 0  # as of all data sets: the same test images for every seed
_PAIRS, _THUMBNAIL = 24, 8
_LIKE, _APART = 0.25, 4.0
"""Neighbours in a video differ by less than this share of what others differ by, and those by so many grey values."""


def cut(count: int, val_fraction: float, seed: int, *, frames: bool) -> dict[str, Tensor]:
    """Positions of the images of each part, ascending; of two images one is for training, the other for all else.

    Args:
        count: how many images there are, in order.
        val_fraction: share of what is left by the test part that is for validation.
        seed: of the validation part.
        frames: neighbours are alike: parts are made of blocks, with a gap between them.

    Raises:
        InputError: there is one image.
    """
    if count < 2:
        raise InputError("images: there is one", "none is left to judge by", "add at least one more image")
    size = max(1, count // _BLOCKS) if frames else 1
    blocks = torch.arange(count).split(size)
    order = chance.order(len(blocks), chance.TEST, _TEST_SEED)
    tests = round(_TEST_FRACTION * len(blocks)) or (1 if len(blocks) > 2 else 0)
    rest = order[tests:].sort().values
    judged = min(len(rest) - 1, max(1, round(val_fraction * len(rest))))
    shuffled = rest[chance.order(len(rest), chance.VALIDATION, seed)]
    chosen = {"test": order[:tests], "val": shuffled[:judged], "train": shuffled[judged:]}
    taken, found = torch.zeros(count, dtype=torch.bool), dict[str, Tensor]()
    for part, numbers in chosen.items():
        mine = torch.zeros(count, dtype=torch.bool)
        for number in numbers.tolist():
            mine[blocks[number]] = True
        found[part] = (mine & ~_widened(taken, size // _GAP)).nonzero().squeeze(1)
        taken |= mine
    return {"train": found["train"], "val": found["val"], "test": found["test"] if tests else found["val"]}


def _widened(mask: Tensor, reach: int) -> Tensor:
    """A mask [N] with all that is within `reach` of it."""
    if not reach:
        return mask
    spread = torch.nn.functional.max_pool1d(mask.float()[None, None], 2 * reach + 1, 1, reach)
    return spread[0, 0] > 0


def are_frames(files: Sequence[str]) -> bool:
    """Whether pictures that follow each other look alike, as frames of a video do: a few of them are compared.

    Raises:
        CorruptFile: one of them is damaged.
    """
    if len(files) < 3:
        return False
    starts = np.unique(np.linspace(0, len(files) - 2, min(_PAIRS, len(files) - 1)).astype(int))
    seen = {at: _thumbnail(files[at]) for start in starts.tolist() for at in (start, start + 1)}
    near = [_distance(seen[at], seen[at + 1]) for at in starts.tolist()]
    others = np.roll(starts, len(starts) // 2).tolist()
    far = [_distance(seen[at], seen[other]) for at, other in zip(starts.tolist(), others, strict=True)]
    return bool(np.median(far) > _APART and np.median(near) < _LIKE * np.median(far))


def _thumbnail(file: str | os.PathLike[str]) -> NDArray[np.float32]:
    image = (
        pictures.rgb(file)
        .convert("L")
        .resize((_THUMBNAIL, _THUMBNAIL), resample=pictures.resamplings()["box"])
    )
    return np.asarray(image, np.float32)


def _distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.abs(one - other).mean())
