"""Folders of pictures: one folder per class, either all in one or apart in `train`, `test` and `val`."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataNotFound, InputError
from . import cache, pictures
from .places import Decoded, Labelled

_log = logging.getLogger(__name__)
_USUAL_SIZE = (224, 224)
_PARTS = ("train", "test", "val")
_PER_TASK = 256  # pictures
_WORTH_THREADS = 64 * 64  # pixels of a picture


@dataclasses.dataclass(frozen=True)
class Listing:
    """The pictures of one part of an image folder."""

    files: tuple[str, ...]
    labels: Tensor
    """int64 [N]."""


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """What is in an image folder, before anything is decoded."""

    root: Path
    classes: tuple[str, ...]
    parts: Mapping[str, Listing]
    """"train", and "test" and "val" where the folder has them apart."""
    fingerprint: str
    """Of all files, by path, size and time."""

    def __len__(self) -> int:
        return sum(len(listing.files) for listing in self.parts.values())


def scan(root: Path) -> ImageFolder:
    """List an image folder: `root/<class>/*`, or the same in `root/train` and `root/test` (and `root/val`).

    Hidden files are passed over; classes and files are in the order of their names.

    Raises:
        DataNotFound: there is no such folder.
        InputError: there are fewer than two classes, a class is empty or is not in every part, or something
            in it is no picture.
    """
    if not root.is_dir():
        raise DataNotFound(
            f"image folder {root}", "there is no such folder", "check the path after 'imagefolder:'"
        )
    try:
        return _scanned(root)
    except OSError as error:
        raise InputError(
            str(error.filename), f"it cannot be read ({error.strerror})", "make it readable"
        ) from error


def _scanned(root: Path) -> ImageFolder:
    folders = _folders(root)
    apart = [name for name in _PARTS if name in folders]
    if apart and not {"train", "test"} <= set(apart):
        raise InputError(
            f"image folder {root}",
            f"it has {' and '.join(apart)}, but not both train and test",
            "add the other, or put the class folders right below it for a test split to be cut",
        )
    states: list[tuple[str, int, int]] = []
    classes: tuple[str, ...] = ()
    parts = {}
    for part in apart or ["train"]:
        below = folders[part] if apart else root
        found = _folders(below)
        classes = classes or tuple(found)
        _check_classes(below, tuple(found), classes)
        files, labels = [], []
        for label, folder in enumerate(found.values()):
            entries = _pictures(folder)
            states += entries
            files += [path for path, _, _ in entries]
            labels += [label] * len(entries)
        parts[part] = Listing(tuple(files), torch.tensor(labels))
    return ImageFolder(root, classes, parts, cache.fingerprint(states))


def _folders(root: Path) -> dict[str, Path]:
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    return {name: root / name for name in names}


def _check_classes(folder: Path, found: tuple[str, ...], expected: tuple[str, ...]) -> None:
    if found != expected:
        odd = sorted(set(found) ^ set(expected))
        raise InputError(
            f"image folder {folder}",
            f"class {odd[0]!r} is not in every one of train, test and val",
            "give all of them the same class folders",
        )
    if len(found) < 2:
        raise InputError(
            f"image folder {folder}",
            f"it has {len(found)} class folders, at least 2 are needed",
            "put the pictures of each class into a folder of its own, named after the class",
        )


def _pictures(folder: Path) -> list[tuple[str, int, int]]:
    """Path, size and time of each picture of a class, in the order of their names."""
    found, known = [], pictures.suffixes()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                raise InputError(
                    entry.path,
                    "it is a folder within a class folder",
                    "put pictures right into the class folder",
                )
            if os.path.splitext(entry.name)[1].lower() not in known:
                raise InputError(
                    entry.path, "it is not named as a picture", "remove it from the class folder"
                )
            state = entry.stat()
            found.append((entry.path, state.st_size, state.st_mtime_ns))
    if not found:
        raise InputError(
            f"class folder {folder}", "it has no pictures", "add pictures of the class or remove the folder"
        )
    return sorted(found)


def common_size(folder: ImageFolder) -> pictures.Size:
    """The size of all pictures if it is the same, else 224 × 224."""
    files = [file for listing in folder.parts.values() for file in listing.files]
    first = pictures.size_of(files[0])
    return first if all(pictures.size_of(file) == first for file in files) else _USUAL_SIZE


def decode(
    folder: ImageFolder, size: pictures.Size, *, crop: float = 1.0, interpolation: str = "bilinear"
) -> Decoded:
    """Decode all pictures, each scaled to cover `size` / `crop` and cut to its centre."""

    def fitted(file: str) -> pictures.Rgb:
        return pictures.fit(pictures.rgb(file), size, margin=1 / crop, interpolation=interpolation)

    return Decoded(
        {
            part: Labelled(decode_files(listing.files, (*size, 3), fitted), listing.labels)
            for part, listing in folder.parts.items()
        },
        folder.classes,
    )


def decode_files(
    files: Sequence[str], shape: tuple[int, ...], decode: Callable[[str], NDArray[np.uint8]]
) -> Tensor:
    """All pictures as `decode` makes them, uint8 [N, *shape]."""
    _log.info("decoding %d pictures, once", len(files))
    images = np.empty((len(files), *shape), np.uint8)

    def fill(task: Iterable[int]) -> None:
        for number in task:
            images[number] = decode(files[number])

    # Pillow lets go of the interpreter lock only while it decodes and scales, which for tiny pictures is the
    # smaller part: there threads would stand in each other's way.
    threads = os.cpu_count() if math.prod(pictures.size_of(files[0])) >= _WORTH_THREADS else 1
    with ThreadPoolExecutor(threads) as pool:
        tasks = [
            range(start, min(start + _PER_TASK, len(files))) for start in range(0, len(files), _PER_TASK)
        ]
        for done in [pool.submit(fill, task) for task in tasks]:
            done.result()
    return torch.from_numpy(images)
