"""Folders of pictures and masks: `images/` and `masks/`, by name; or these in `train/`, `val/` and `test/`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..errors import DataNotFound, InputError
from . import pictures
from .annotated import Annotated, Listed
from .lines import numbered
from .placement import mask_image
from .targets import IGNORED

_NAMES = "classes.txt"
_LOSSY = (".jpg", ".jpeg", ".JPG", ".JPEG")


def scan(root: Path) -> Annotated:
    """List pictures with their masks; a mask has the class of each pixel, and 255 where none counts.

    Classes are called by their numbers, or as `classes.txt` says, one name a line.

    Raises:
        DataNotFound: there is no such folder, or a picture has no mask.
        InputError: masks say no class but one, or a class that has no name; two pictures have the same name.
    """
    if not root.is_dir():
        raise DataNotFound(
            f"masks data set {root}", "there is no such folder", "check the path after 'masks:'"
        )
    apart = [part for part in ("train", "val", "test") if (root / part / "images").is_dir()]
    if apart and "train" not in apart:
        raise InputError(
            f"masks data set {root}",
            f"it has {' and '.join(apart)}, but no train",
            "add train/images and train/masks",
        )
    parts = {part: _listed(root / part if apart else root) for part in apart or ["train"]}
    classes = _classes(root, [file for listed in parts.values() for file in map(str, listed.targets)])
    return Annotated(
        "masks", root, classes, parts, {"name": "segmentation", "ignore_index": IGNORED}, usual=(512, 512)
    )


def _listed(root: Path) -> Listed:
    suffixes = pictures.suffixes()
    found = []
    for name in ("images", "masks"):
        if not (root / name).is_dir():
            raise DataNotFound(
                f"masks data set {root}",
                f"it has no folder {name}",
                "put pictures into images/, masks into masks/",
            )
        named: dict[Path, Path] = {}
        for file in sorted((root / name).rglob("*")):
            if file.suffix.lower() not in suffixes or file.name.startswith("."):
                continue
            other = named.setdefault(file.relative_to(root / name).with_suffix(""), file)
            if other is not file:
                raise InputError(
                    str(file), f"{other.name} has the same name, by which pictures and masks are matched",
                    "remove or rename one of them",
                )  # fmt: skip
        found.append({at: str(file) for at, file in named.items()})
    images, masks = found
    lossy = next((file for file in masks.values() if file.endswith(_LOSSY)), None)
    if lossy is not None:
        raise InputError(
            lossy, "it is a JPEG, which changes the numbers of classes a little", "save masks as PNG, from the original"
        )  # fmt: skip
    if not images:
        raise DataNotFound(
            f"masks data set {root}", "images/ has no pictures", "add some, such as PNG or JPEG files"
        )
    for names, others, what in ((images, masks, "mask"), (masks, images, "picture")):
        lost = sorted(names.keys() - others.keys())
        if lost:
            raise DataNotFound(
                names[lost[0]],
                f"it has no {what} of the same name ({len(lost)} such)",
                "add it, or remove the file",
            )
    return Listed(tuple(images.values()), [masks[name] for name in images])


def _classes(root: Path, masks: list[str]) -> tuple[str, ...]:
    names: tuple[str, ...] = ()
    if (root / _NAMES).is_file():
        names = tuple(line for _, line in numbered(root / _NAMES))
    with ThreadPoolExecutor() as pool:
        largest = list(pool.map(_largest, masks))
    highest = max(largest, default=-1)
    if names and highest >= len(names):
        raise InputError(
            masks[largest.index(highest)], f"it has class {highest}, {_NAMES} names 0 to {len(names) - 1}",
            "add its name, or correct the mask",
        )  # fmt: skip
    if highest < 1:
        raise InputError(
            f"masks data set {root}", f"no mask has a class above 0; {IGNORED} is of pixels that do not count",
            f"write 1, 2 … for what is not background, 0 and 1 in place of 0 and {IGNORED}",
        )  # fmt: skip
    return names or tuple(map(str, range(highest + 1)))


def _largest(file: str) -> int:
    values = np.asarray(mask_image(file))
    counted = values[values != IGNORED]
    return int(counted.max()) if counted.size else -1
