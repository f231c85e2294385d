"""`load`: from a name to train, validation and test splits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError, InputTypeError, unknown
from ..storage.preprocessing import Preprocessing
from . import annotated, cache, catalog, chance, coco, digit_scenes, folder, masks, photos, table, yolo
from .options import MEMORY_LIMIT, changed, check_options, expected, size_of
from .placement import LETTERBOX
from .places import Decoded
from .split import Data, MemoryStore, Split
from .stream import FolderStore
from .targets import Boxes, Masks, choose, has_classes
from .transform import Transform, statistics

_TEST_FRACTION = 0.2
_TEST_SEED = 0  # the same test images for every seed: no run trains on what another one tests on
_PAD = 1 / 8  # of the shorter side: the customary 4 pixels at 32
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
    resize: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    scale: float | None = None,
    channels: str | None = None,
    like: nn.Module | Preprocessing | None = None,
    flip: bool | None = None,
    cutout: int = 0,
) -> Data:
    """Load a data set and cut it into train, validation and test splits.

    Args:
        name: one of `pintsize.data.list()`; `imagefolder:PATH` for a folder of class folders; `coco:PATH` or
            `yolo:data.yaml` for boxes, `masks:PATH` for masks, `csv:FILE` for numbers;
            `images:PATH` for images without labels. Where there is no test part, a fifth of the images, the same for every
            seed, is cut off as one.
        val_fraction: share of the training images that becomes the validation split, class by class. A data set with
            a part `val` has that as its validation split.
        seed: determines the validation split.
        limit: at most so many images in each split, class by class, for quick runs.
        image_size: side of the images, or height and width, as (224, 320) or `224x320`; by default their own.
            Where they differ in size: 224 for classes and numbers, 512 for masks, 640 for boxes.
        resize: how images with boxes, masks or numbers come to a size: `letterbox` (whole, with a border), which is the
            default, or `stretch`; of `images:` see `pintsize.data.images`.
        mean: per channel, of the [0, 1] images, to normalise by; by default the set's own, for image folders
            ImageNet's.
        std: per channel, like `mean`.
        scale: of `images:`, see `pintsize.data.images`.
        channels: of `images:`, likewise.
        like: a network from `pintsize.models.create`, with `pretrained`: the size, mean and std that its weights expect, and
            the crop of image folders, stand in where they are not given.
        flip: whether augmentation mirrors images; by default for all sets but digits.
        cutout: side in pixels of the square that augmentation erases in every image; 0 for none.

    Returns:
        The splits and what is known of them.

    Raises:
        InputError: an unknown name or an impossible option; an empty class folder; too few images.
        DataNotFound: the data set is not on this machine; it says where it was looked for and how to get it.
        CorruptFile: a file is damaged, or is no picture; it is named.
    """
    check_options(val_fraction, seed, limit)
    chance.check_whole("cutout", cutout, least=0)
    if isinstance(name, str) and name.startswith(catalog.IMAGES_PREFIX):
        given = {"scale": scale, "channels": channels, "flip": flip}
        return photos.images(
            name.removeprefix(catalog.IMAGES_PREFIX), size=image_size, resize=resize, mean=mean, std=std, like=like,
            val_fraction=val_fraction, seed=seed, limit=limit, cutout=cutout,
            **{option: value for option, value in given.items() if value is not None},  # type: ignore[arg-type]
        )  # fmt: skip
    if scale is not None or channels is not None:
        raise InputError(
            f"data set {name!r} with scale or channels",
            "they are for images without labels",
            "leave them out",
        )
    known = expected(like)
    parts = _parts(
        name, size_of(image_size) or (None if known is None else known.size), resize or LETTERBOX,
        {"mean": mean, "std": std, "flip": flip, "cutout": cutout, "like": known},
    )  # fmt: skip
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
        transform = changed(Transform(*_IMAGENET_STATISTICS, flip=found.flip), changes)
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
    transform = changed(Transform(mean, std, pad=4, size=size), changes)
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
    transform = changed(Transform(mean, std, known.pad, known.flip, known.peak, size), changes)
    return _in_memory(decoded, transform)


def _folder_parts(path: str, asked: tuple[int, int] | None, changes: dict[str, Any]) -> Parts:
    if not path:
        raise InputError("data set 'imagefolder:'", "it names no folder", "write imagefolder:/path/to/folder")
    found = folder.scan(Path(path).expanduser().resolve())
    transform = changed(Transform(*_IMAGENET_STATISTICS, flip=True), changes)
    like = changes["like"]
    look = {} if like is None else {"crop": like.crop, "interpolation": like.interpolation}
    # a square is called by its side, as it always was, so that what is in the cache serves
    identity = f"{found.root} at {asked[0] if asked is not None and asked[0] == asked[1] else asked}"
    identity += "".join(f" {key} {value}" for key, value in look.items())
    decoded = cache.recall("imagefolder", identity, found.fingerprint)
    if decoded is None:
        size = asked or folder.common_size(found)
        if 3 * math.prod(size) * len(found) > MEMORY_LIMIT:
            return {
                part: Split(
                    FolderStore(listing.files, size, **look), listing.labels, found.classes, transform
                )
                for part, listing in found.parts.items()
            }
        decoded = folder.decode(found, size, **look)
        cache.keep("imagefolder", identity, found.fingerprint, decoded)
    shorter_side = min(decoded.parts["train"].images.shape[1:3])
    transform = dataclasses.replace(transform, pad=max(1, round(shorter_side * _PAD)))
    return _in_memory(decoded, transform)


def _in_memory(decoded: Decoded, transform: Transform) -> Parts:
    return {
        part: Split(MemoryStore(images), labels, decoded.classes, transform)
        for part, (images, labels) in decoded.parts.items()
    }


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
