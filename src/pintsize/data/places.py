"""Where data sets and their caches are, and what a reader hands over."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..errors import CorruptFile


def data_folder() -> Path:
    """Where data sets are looked for first: `PINTSIZE_DATA`, by default `~/.cache/pintsize/data`."""
    return Path(os.environ.get("PINTSIZE_DATA") or "~/.cache/pintsize/data").expanduser()


def cache_folder() -> Path:
    """Where decoded data sets are kept: `PINTSIZE_CACHE`, by default `~/.cache/pintsize/decoded`."""
    return Path(os.environ.get("PINTSIZE_CACHE") or "~/.cache/pintsize/decoded").expanduser()


class Labelled(NamedTuple):
    """Images with their classes."""

    images: Tensor
    """uint8 [N, H, W, C]."""
    labels: Tensor
    """int64 [N]."""


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A small data set, decoded."""

    parts: Mapping[str, Labelled]
    """By the name of the part: "train", and "test" and "val" where the set has them apart."""
    classes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Place:
    """One place where a data set is looked for."""

    path: Path
    """The folder or archive."""
    lacks: str | None
    """Why the data set is not there; None if it is."""
    files: tuple[Path, ...]
    """The files that `read` reads."""
    read: Callable[[], Decoded]


def check_labels(labels: Tensor, *, images: int, classes: int, source: str) -> None:
    """Raise `CorruptFile` unless there is one label per image, each one of the classes."""
    if len(labels) != images:
        raise CorruptFile(
            source,
            f"there are {len(labels)} labels for {images} images",
            "fetch the files again, all of one version",
        )
    if images and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise CorruptFile(
            source,
            f"its labels are {int(labels.min())} to {int(labels.max())}, its classes 0 to {classes - 1}",
            "fetch the file again",
        )
