"""Data sets from the Hugging Face hub, through the `datasets` library (the extra `hub`)."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..errors import CorruptFile, MissingExtra, OperationError
from .places import Decoded, Labelled, check_labels


@dataclasses.dataclass(frozen=True)
class HubSet:
    """A data set of the hub, with splits "train" and "test"."""

    repository: str
    image: str
    """The column of pictures."""
    label: str
    """The column of classes."""
    mode: str
    """Of the pictures, as Pillow names it: "L" or "RGB"."""


def installed() -> bool:
    """Whether the extra is installed."""
    try:
        importlib.metadata.version("datasets")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def fetch(hub: HubSet) -> Decoded:
    """Download (or take from the hub client's own cache) and decode.

    Raises:
        MissingExtra: `datasets` is not installed.
        OperationError: the hub cannot be reached, or has no such data set.
        CorruptFile: what it sent does not fit together.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtra(f"data set {hub.repository} of the hub", "hub") from error
    parts: dict[str, Labelled] = {}
    classes: tuple[str, ...] = ()
    for part in ("train", "test"):
        try:
            with _errors_alone():
                rows = load_dataset(hub.repository, split=part)
        except Exception as error:  # the client and its HTTP library raise errors of many unrelated kinds
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise OperationError(
                f"data set {hub.repository} of the hub",
                f"it cannot be fetched ({reason})",
                "check the network, or put the files in place by hand",
            ) from error
        classes = tuple(rows.features[hub.label].names)
        parts[part] = _decode(hub, rows, classes)
    return Decoded(parts, classes)


@contextlib.contextmanager
def _errors_alone() -> Iterator[None]:
    """The client announces every retry; what matters of them, that the last one failed, its error says."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _decode(hub: HubSet, rows: Any, classes: tuple[str, ...]) -> Labelled:
    source = f"data set {hub.repository} of the hub"
    images, labels = [], []
    for row in rows:
        picture = np.asarray(row[hub.image].convert(hub.mode))
        images.append(picture if picture.ndim == 3 else picture[..., None])
        labels.append(int(row[hub.label]))
    if len({image.shape for image in images}) != 1:
        raise CorruptFile(
            source, "it is empty or its images differ in size", "put the files in place by hand"
        )
    checked = torch.tensor(labels, dtype=torch.int64)
    check_labels(checked, images=len(images), classes=len(classes), source=source)
    return Labelled(torch.from_numpy(np.stack(images)), checked)
