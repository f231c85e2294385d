"""What decides a run in a data set, in short."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from ..storage.digests import digest, tensor_digest
from .split import Data, MemoryStore, Split
from .unlabelled import Unlabelled

_LOOK = ("mean", "std", "peak", "size")
"""Of a transform, what decides images that are not augmented."""


def data_digest(data: Data) -> str:
    """A digest of what decides a run in a data set: name, splits, what becomes of the training images."""
    splits = {"train": data.train, "val": data.val, "test": data.test}
    if not isinstance(data.train, Split):
        parts = {part: split_digest(split) for part, split in splits.items()}
        return digest([data.name, data.classes, data.image_shape, parts])
    labels = {part: split.labels for part, split in splits.items()}
    transform = dataclasses.asdict(data.train.transform)
    if all(isinstance(one, Tensor) for one in labels.values()):
        targets = tensor_digest(labels)
    else:
        targets = digest([one.digest() for one in labels.values()])
    return digest([data.name, data.classes, data.image_shape, transform, targets])


def images_digest(split: Any) -> str | None:
    """A digest of the images that a split gives out without augmentation; None where that is not cheap to know."""
    if not isinstance(split, Split):
        return None
    look = {key: value for key, value in dataclasses.asdict(split.transform).items() if key in _LOOK}
    if isinstance(split.labels, Unlabelled):
        return digest([split.labels.digest(), look])
    if isinstance(split.store, MemoryStore):
        return digest([tensor_digest({"images": split.store.images, "positions": split.positions}), look])
    return None


def split_digest(split: Any) -> str:
    """A digest of what a split gives out, from its targets: of a data set these tell which images they are."""
    if not isinstance(split, Split):
        found: str = split.digest()
        return found
    targets = split.labels
    told = tensor_digest({"labels": targets}) if isinstance(targets, Tensor) else targets.digest()
    return digest([split.classes, split.image_shape, dataclasses.asdict(split.transform), told])
