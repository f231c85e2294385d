"""Scenes for detection and segmentation without a download: scikit-learn's digits, several on a canvas, made on the fly.

Each is 96×96, grey, a little noisy, with 1 to 5 digits of 16 to 40 pixels that do not touch. They are always the same; those
of the test part are of digits that no other part shows.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import chance, digits
from .places import Labelled
from .targets import Target

SIDE = 96
CLASSES = tuple("0123456789")
_SCENES = {"train": 1500, "test": 300}
_MOST, _TRIES = 5, 12
_SMALLEST, _LARGEST = 16, 40
_NOISE = 25
"""Grey levels, of 255."""
_INK = 0.35
"""Share of full ink from which on a pixel belongs to a digit."""
_WORDS = 5
"""That one try takes: which digit, how large, where (two), how bright."""


@dataclasses.dataclass(frozen=True)
class Scenes:
    """One part."""

    images: Tensor
    """uint8 [N, 96, 96, 1]."""
    boxes: tuple[Target, ...]
    """Of each scene; labels are the digits."""
    masks: Tensor
    """uint8 [N, 96, 96, 1]: 0 is background, 1 the digit 0, and so on."""


@functools.lru_cache(maxsize=1)
def read() -> Mapping[str, Scenes]:
    """The train and the test part."""
    parts = digits.read().parts
    return {part: _part(number, parts[part], count) for number, (part, count) in enumerate(_SCENES.items())}


def _part(number: int, source: Labelled, count: int) -> Scenes:
    words = chance.words(count * (1 + _WORDS * _TRIES), chance.SCENES, number).reshape(count, -1)
    noise = chance.words(count * SIDE * SIDE // 8, chance.SCENES, number, 1).view(np.uint8) % _NOISE
    images, masks = noise.reshape(count, SIDE, SIDE), np.zeros((count, SIDE, SIDE), np.uint8)
    glyphs, labels = source.images[..., 0].numpy() / np.float32(digits.PEAK), source.labels.tolist()
    boxes = []
    for image, mask, drawn in zip(images, masks, words, strict=True):
        found, names = [], []
        for index, side, top, left, light in _places(drawn):
            which = index % len(glyphs)
            ink = _enlarging(side) @ glyphs[which] @ _enlarging(side).T
            window = slice(top, top + side), slice(left, left + side)
            image[window] = np.maximum(image[window], (255 * light * ink).astype(np.uint8))
            shown = ink > _INK * ink.max()
            mask[window][shown] = labels[which] + 1
            rows, columns = (np.flatnonzero(shown.any(axis)) for axis in (1, 0))
            found.append([left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1])
            names.append(labels[which])
        boxes.append({"boxes": torch.tensor(np.array(found, np.float32)), "labels": torch.tensor(names)})
    pixels, classes = (torch.from_numpy(one[..., None]) for one in (images, masks))
    return Scenes(pixels, tuple(boxes), classes)


def _places(drawn: NDArray[np.uint64]) -> Iterator[tuple[int, int, int, int, float]]:
    """Of each digit of a scene: which, its side, top, left and brightness."""
    count = 1 + int(drawn[0]) % _MOST
    taken: list[tuple[int, int, int]] = []
    for index, size, down, right, light in drawn[1:].reshape(_TRIES, _WORDS).tolist():
        side = _SMALLEST + size % (_LARGEST - _SMALLEST + 1)
        top, left = down % (SIDE - side + 1), right % (SIDE - side + 1)
        if any(
            top < other + extent and other < top + side and left < start + extent and start < left + side
            for other, start, extent in taken
        ):
            continue
        taken.append((top, left, side))
        yield index, side, top, left, 0.55 + 0.45 * (light % 256) / 255
        if len(taken) == count:
            return


@functools.lru_cache
def _enlarging(side: int) -> NDArray[np.float32]:
    """Bilinear interpolation of 8 pixels to `side`, [side, 8]."""
    places = np.clip((np.arange(side) + 0.5) * 8 / side - 0.5, 0, 7)
    weights: NDArray[np.float32] = np.maximum(1 - np.abs(places[:, None] - np.arange(8)), 0).astype(
        np.float32
    )
    return weights
