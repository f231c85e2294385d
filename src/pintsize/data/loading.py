"""`load`: from a name to train, validation and test splits."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, InputTypeError, unknown
from . import cache, catalog, chance, folder
from .places import Decoded
from .split import Data, MemoryStore, Split
from .stream import FolderStore
from .transform import Transform, statistics

MEMORY_LIMIT = 3 * 2**29
"""Bytes of decoded pixels (1.5 GiB) up to which an image folder is held in memory."""
_TEST_FRACTION = 0.2
_TEST_SEED = 0  # the same test images for every seed: no run trains on what another one tests on
_PAD = 1 / 8  # of the shorter side: the customary 4 pixels at 32
_SMALLEST, _LARGEST = 4, 4096
_IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Parts = dict[str, Split]
"""By "train", and "test" and "val" where the data set has them apart."""


def load(
    name: str,
    *,
    val_fraction: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    flip: bool | None = None,
    cutout: int = 0,
) -> Data:
    """Load a data set and cut it into train, validation and test splits.

    Args:
        name: one of `pintsize.data.list()`, or `imagefolder:PATH` for a folder of class folders. Where such a
            folder has no test part, a fifth of its images, the same for every seed, is cut off as one.
        val_fraction: share of the training images that becomes the validation split, class by class. An image
            folder with a folder `val` has that as its validation split.
        seed: determines the validation split.
        limit: at most so many images in each split, class by class, for quick runs.
        image_size: height and width of the images; by default their own, and for an image folder whose images
            differ in size, 224.
        mean: per channel, of the [0, 1] images, to normalise by; by default the set's own, for image folders
            ImageNet's.
        std: per channel, like `mean`.
        flip: whether augmentation mirrors images; by default for all sets but digits.
        cutout: side in pixels of the square that augmentation erases in every image; 0 for none.

    Returns:
        The splits and what is known of them.

    Raises:
        InputError: an unknown name or an impossible option; an empty class folder; too few images.
        DataNotFound: the data set is not on this machine; it says where it was looked for and how to get it.
        CorruptFile: a file is damaged, or is no picture; it is named.
    """
    _check_options(val_fraction, seed, limit, image_size)
    chance.check_whole("cutout", cutout, least=0)
    parts = _parts(name, image_size, {"mean": mean, "std": std, "flip": flip, "cutout": cutout})
    if "test" not in parts:
        parts["train"], parts["test"] = _cut(parts["train"], _TEST_FRACTION, chance.TEST, _TEST_SEED)
    if "val" not in parts:
        parts["train"], parts["val"] = _cut(parts["train"], val_fraction, chance.VALIDATION, seed)
    _check_counts(name, parts, limit)
    if cutout >= min(parts["train"].image_shape[1:]):
        raise InputError(
            f"cutout={cutout}",
            f"it would erase images of {parts['train'].image_shape[1:]}",
            "half of their side is customary",
        )
    if limit is not None:
        parts = {part: split.at_most(limit, seed) for part, split in parts.items()}
    train, val, test = (parts[part] for part in ("train", "val", "test"))
    mean, std = train.transform.mean, train.transform.std
    return Data(name, train, val, test, train.classes, train.image_shape, mean, std)


def _parts(name: str, image_size: int | None, changes: dict[str, Any]) -> Parts:
    """The splits that the data set has apart, with the user's `changes` of the transform."""
    if not isinstance(name, str):
        raise InputTypeError(
            f"data set {name!r}", "a data set is loaded by its name", "pass a string such as 'digits'"
        )
    if name.startswith(catalog.FOLDER_PREFIX):
        return _folder_parts(name.removeprefix(catalog.FOLDER_PREFIX), image_size, changes)
    if name in catalog.KNOWN:
        return _known_parts(name, image_size, changes)
    if Path(name).is_dir():
        raise InputError(
            f"data set {name!r}", "it is a folder, not the name of a data set", f"write imagefolder:{name}"
        )
    raise unknown("data set", name, [*catalog.KNOWN, f"{catalog.FOLDER_PREFIX}PATH"])


def _known_parts(name: str, image_size: int | None, changes: dict[str, Any]) -> Parts:
    known, decoded = catalog.KNOWN[name], catalog.read(name)
    mean, std = known.statistics or statistics(decoded.parts["train"].images, peak=known.peak)
    size = None if image_size is None else (image_size, image_size)
    transform = _changed(Transform(mean, std, known.pad, known.flip, known.peak, size), changes)
    return _in_memory(decoded, transform)


def _folder_parts(path: str, image_size: int | None, changes: dict[str, Any]) -> Parts:
    if not path:
        raise InputError("data set 'imagefolder:'", "it names no folder", "write imagefolder:/path/to/folder")
    found = folder.scan(Path(path).expanduser().resolve())
    transform = _changed(Transform(*_IMAGENET_STATISTICS, flip=True), changes)
    identity = f"{found.root} at {image_size}"
    decoded = cache.recall("imagefolder", identity, found.fingerprint)
    if decoded is None:
        size = folder.common_size(found) if image_size is None else (image_size, image_size)
        if 3 * math.prod(size) * len(found) > MEMORY_LIMIT:
            return {
                part: Split(FolderStore(listing.files, size), listing.labels, found.classes, transform)
                for part, listing in found.parts.items()
            }
        decoded = folder.decode(found, size)
        cache.keep("imagefolder", identity, found.fingerprint, decoded)
    shorter_side = min(decoded.parts["train"].images.shape[1:3])
    transform = dataclasses.replace(transform, pad=max(1, round(shorter_side * _PAD)))
    return _in_memory(decoded, transform)


def _in_memory(decoded: Decoded, transform: Transform) -> Parts:
    return {
        part: Split(MemoryStore(images), labels, decoded.classes, transform)
        for part, (images, labels) in decoded.parts.items()
    }


def _changed(transform: Transform, changes: dict[str, Any]) -> Transform:
    """The transform with the user's mean, std, flip and cutout where they are given."""
    given = {option: value for option, value in changes.items() if value is not None}
    channels = len(transform.mean)
    for option in given.keys() & {"mean", "std"}:
        try:
            values = tuple(float(value) for value in given[option])
        except (TypeError, ValueError):
            values = ()
        if (
            len(values) != channels
            or not all(map(math.isfinite, values))
            or (option == "std" and min(values) <= 0)
        ):
            kind = "positive numbers" if option == "std" else "numbers"
            raise InputError(
                f"{option}={given[option]!r}",
                f"it is not {channels} {kind}, one per channel",
                "pass those of the images scaled to [0, 1]",
            )
        given[option] = values
    return dataclasses.replace(transform, **given)


def _check_options(val_fraction: float, seed: int, limit: int | None, image_size: int | None) -> None:
    if (
        isinstance(val_fraction, bool)
        or not isinstance(val_fraction, numbers.Real)
        or not 0 < val_fraction < 1
    ):
        raise InputError(
            f"val_fraction={val_fraction!r}", "it is not a number between 0 and 1", "pass a share such as 0.1"
        )
    chance.check_whole("seed", seed, least=0)
    if limit is not None:
        chance.check_whole("limit", limit, least=1)
    if image_size is not None:
        chance.check_whole("image_size", image_size, least=_SMALLEST)
        if image_size > _LARGEST:
            raise InputError(f"image_size={image_size}", f"it is above {_LARGEST}", "pass a smaller one")


def _cut(split: Split, fraction: float, purpose: int, seed: int) -> tuple[Split, Split]:
    """The rest of a split, and the `fraction` of it that is cut off class by class."""
    cut = chance.stratified(split.labels, round(fraction * len(split)), purpose, seed)
    kept = torch.ones(len(split), dtype=torch.bool).index_fill(0, cut, False).nonzero().squeeze(1)
    return split.take(kept), split.take(cut)


def _check_counts(name: str, parts: Parts, limit: int | None) -> None:
    classes = parts["train"].classes
    if limit is not None and limit < len(classes):
        raise InputError(
            f"limit={limit}", f"it is fewer than the {len(classes)} classes", "pass a larger one"
        )
    for part in ("test", "val"):
        if not len(parts[part]):
            raise InputError(
                f"data set '{name}'",
                f"no image is left for its {part} split",
                "add images or raise val_fraction",
            )
    counts = torch.bincount(parts["train"].labels, minlength=len(classes))
    if not counts.all():
        bare = classes[int(counts.argmin())]
        raise InputError(
            f"data set '{name}'",
            f"no image of class {bare!r} is left for its train split",
            "add images of that class or lower val_fraction",
        )
