"""What decides a run in a data set, in short."""

from __future__ import annotations

import dataclasses

from ..storage.digests import digest, tensor_digest
from .split import Data


def data_digest(data: Data) -> str:
    """A digest of what decides a run in a data set: name, splits, what becomes of the training images."""
    labels = {
        name: split.labels for name, split in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    transform = dataclasses.asdict(data.train.transform)
    return digest([data.name, data.classes, data.image_shape, transform, tensor_digest(labels)])
