"""What decides a run in a data set, in short."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from ..storage.digests import digest, tensor_digest
from .split import Data, Split


def data_digest(data: Data) -> str:
    """A digest of what decides a run in a data set: name, splits, what becomes of the training images."""
    splits = {"train": data.train, "val": data.val, "test": data.test}
    if not isinstance(data.train, Split):
        parts = {part: split.digest() for part, split in splits.items()}
        return digest([data.name, data.classes, data.image_shape, parts])
    labels = {part: split.labels for part, split in splits.items()}
    transform = dataclasses.asdict(data.train.transform)
    if all(isinstance(one, Tensor) for one in labels.values()):
        targets = tensor_digest(labels)
    else:
        targets = digest([one.digest() for one in labels.values()])
    return digest([data.name, data.classes, data.image_shape, transform, targets])
