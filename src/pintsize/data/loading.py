"""`load`: from a name to train, validation and test splits."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, InputTypeError, unknown
from ..recipe.sides import sides
from . import annotated, cache, catalog, chance, coco, digit_scenes, folder, masks, table, yolo
from .placement import LETTERBOX
from .places import Decoded
from .split import Data, MemoryStore, Split
from .stream import FolderStore
from .targets import Boxes, Masks, choose, has_classes
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
    image_size: int | str | tuple[int, int] | None = None,
    resize: str = LETTERBOX,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    flip: bool | None = None,
    cutout: int = 0,
) -> Data:
    """Load a data set and cut it into train, validation and test splits.

    Args:
        name: one of `pintsize.data.list()`; `imagefolder:PATH` for a folder of class folders; `coco:PATH` or
            `yolo:data.yaml` for boxes, `masks:PATH` for masks, `csv:FILE` for numbers. Where there is no test part, a
            fifth of the images, the same for every seed, is cut off as one.
        val_fraction: share of the training images that becomes the validation split, class by class. A data set with
            a part `val` has that as its validation split.
        seed: determines the validation split.
        limit: at most so many images in each split, class by class, for quick runs.
        image_size: side of the images, or height and width, as (224, 320) or `224x320`; by default their own.
            Where they differ in size: 224 for classes and numbers, 512 for masks, 640 for boxes.
        resize: how images with boxes, masks or numbers come to a size: `letterbox` (whole, with a border) or `stretch`.
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
    _check_options(val_fraction, seed, limit)
    chance.check_whole("cutout", cutout, least=0)
    parts = _parts(
        name, _size(image_size), resize, {"mean": mean, "std": std, "flip": flip, "cutout": cutout}
    )
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
    return Data(name, train, val, test, train.classes, train.image_shape, mean, std, train.task)


READERS: dict[str, Callable[[Path], annotated.Annotated]] = {
    "coco": coco.scan, "yolo": yolo.scan, "masks": masks.scan, "csv": table.scan,
}  # fmt: skip
"""Prefix of a name → what reads such data sets."""


def _parts(name: str, size: tuple[int, int] | None, resize: str, changes: dict[str, Any]) -> Parts:
    """The splits that the data set has apart, with the user's `changes` of the transform."""
    if not isinstance(name, str):
        raise InputTypeError(
            f"data set {name!r}", "a data set is loaded by its name", "pass a string such as 'digits'"
        )
    prefix, _, path = name.partition(":")
    if name.startswith(catalog.FOLDER_PREFIX):
        return _folder_parts(path, size, changes)
    if prefix in READERS:
        if not path:
            raise InputError(
                f"data set {name!r}", "it names no file or folder", f"write {catalog.FORMATS[prefix][0]}"
            )
        found = READERS[prefix](Path(path).expanduser().resolve())
        transform = _changed(Transform(*_IMAGENET_STATISTICS, flip=found.flip), changes)
        return annotated.splits(found, size, resize, transform, MEMORY_LIMIT)
    if name in catalog.SCENES:
        return _scene_parts(name, size, changes)
    if name in catalog.KNOWN:
        return _known_parts(name, size, changes)
    if Path(name).exists():
        raise InputError(
            f"data set {name!r}",
            f"it is a {'folder' if Path(name).is_dir() else 'file'}, not the name of a data set",
            f"write {_prefix_of(Path(name))}:{name}",
        )
    formats = [told for told, _ in catalog.FORMATS.values()]
    raise unknown(
        "data set", name, [*catalog.KNOWN, *catalog.SCENES, f"{catalog.FOLDER_PREFIX}PATH", *formats]
    )


def _prefix_of(path: Path) -> str:
    """What a file or folder looks like."""
    if path.is_file():
        return {".json": "coco", ".yaml": "yolo", ".yml": "yolo"}.get(path.suffix.lower(), "csv")
    inside = ("annotations", "coco"), ("masks", "masks"), ("train/masks", "masks")
    return next((prefix for folder, prefix in inside if (path / folder).is_dir()), "imagefolder")


def _scene_parts(name: str, size: tuple[int, int] | None, changes: dict[str, Any]) -> Parts:
    scenes = digit_scenes.read()
    mean, std = statistics(scenes["train"].images, peak=255)
    transform = _changed(Transform(mean, std, pad=4, size=size), changes)
    of_pixels = name.endswith(":masks")
    classes = ("background", *digit_scenes.CLASSES) if of_pixels else digit_scenes.CLASSES
    made: Parts = {}
    for part, found in scenes.items():
        order = torch.arange(len(found.images))
        targets = Masks(MemoryStore(found.masks), order) if of_pixels else Boxes(found.boxes)
        task = "segmentation" if of_pixels else "detection"
        made[part] = Split(MemoryStore(found.images), targets, classes, transform, task=task)
    return made


def _known_parts(name: str, size: tuple[int, int] | None, changes: dict[str, Any]) -> Parts:
    known, decoded = catalog.KNOWN[name], catalog.read(name)
    mean, std = known.statistics or statistics(decoded.parts["train"].images, peak=known.peak)
    transform = _changed(Transform(mean, std, known.pad, known.flip, known.peak, size), changes)
    return _in_memory(decoded, transform)


def _folder_parts(path: str, asked: tuple[int, int] | None, changes: dict[str, Any]) -> Parts:
    if not path:
        raise InputError("data set 'imagefolder:'", "it names no folder", "write imagefolder:/path/to/folder")
    found = folder.scan(Path(path).expanduser().resolve())
    transform = _changed(Transform(*_IMAGENET_STATISTICS, flip=True), changes)
    # a square is called by its side, as it always was, so that what is in the cache serves
    identity = f"{found.root} at {asked[0] if asked is not None and asked[0] == asked[1] else asked}"
    decoded = cache.recall("imagefolder", identity, found.fingerprint)
    if decoded is None:
        size = asked or folder.common_size(found)
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


def _check_options(val_fraction: float, seed: int, limit: int | None) -> None:
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


def _size(image_size: Any) -> tuple[int, int] | None:
    """Height and width, within what networks see."""
    found = sides(image_size)
    for side in found or ():
        chance.check_whole("image_size", side, least=_SMALLEST)
        if side > _LARGEST:
            raise InputError(f"image_size={image_size}", f"it is above {_LARGEST}", "pass a smaller one")
    return found


def _cut(split: Split, fraction: float, purpose: int, seed: int) -> tuple[Split, Split]:
    """The rest of a split, and the `fraction` of it that is cut off, class by class where images have one."""
    cut = choose(split.labels, round(fraction * len(split)), purpose, seed)
    kept = torch.ones(len(split), dtype=torch.bool).index_fill(0, cut, False).nonzero().squeeze(1)
    return split.take(kept), split.take(cut)


def _check_counts(name: str, parts: Parts, limit: int | None) -> None:
    classes = parts["train"].classes
    labels = parts["train"].labels
    if limit is not None and limit < len(classes) and has_classes(labels):
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
    if not has_classes(labels):
        return
    counts = torch.bincount(labels, minlength=len(classes))
    if not counts.all():
        bare = classes[int(counts.argmin())]
        raise InputError(
            f"data set '{name}'",
            f"no image of class {bare!r} is left for its train split",
            "add images of that class or lower val_fraction",
        )
