"""Boxes in COCO's JSON (cocodataset.org, "Data format"): `images`, `annotations`, `categories`."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CorruptFile, DataNotFound, InputError
from .annotated import Annotated, Listed

_NAMES = re.compile(r"instances_(train|val|test)\w*\.json")


def scan(path: Path) -> Annotated:
    """Read a folder with `images/` and `annotations/instances_{train,val,test}*.json`, or one such file.

    Classes are numbered by the order of their ids. Regions of crowds are left out, as are boxes without extent.

    Raises:
        DataNotFound: there is no such folder or file.
        CorruptFile: a file is no JSON of this form.
        InputError: an annotation names a category or an image that there is not.
    """
    if path.is_file():
        files = {"train": path}
    elif path.is_dir():
        found = sorted((path / "annotations").glob("instances_*.json"))
        files = {match[1]: file for file in found if (match := _NAMES.fullmatch(file.name))}
        if "train" not in files:
            raise DataNotFound(
                f"COCO data set {path}", "it has no annotations/instances_train*.json",
                "add it, or name the JSON file itself: coco:PATH/instances.json",
            )  # fmt: skip
    else:
        raise DataNotFound(
            f"COCO data set {path}", "there is no such folder or file", "check the path after 'coco:'"
        )
    parts, classes = {}, None
    for part, file in files.items():
        names, parts[part] = _read(file, path if path.is_dir() else file.parent)
        if classes is not None and names != classes:
            odd = sorted(set(names) ^ set(classes)) or list(names)
            raise InputError(
                str(file), f"its categories are not those of {files['train'].name}: {odd[0]!r}",
                "give all parts the same categories, in the same order",
            )  # fmt: skip
        classes = names
    return Annotated("coco", path, classes or (), parts, "detection")


def _read(file: Path, root: Path) -> tuple[tuple[str, ...], Listed]:
    content = _json(file)
    try:
        categories = sorted((int(one["id"]), str(one["name"])) for one in content["categories"])
        images = {int(one["id"]): one for one in content["images"]}
        number = {category: at for at, (category, _) in enumerate(categories)}
        boxes, labels = defaultdict(list), defaultdict(list)
        for one in content["annotations"]:
            image, category = int(one["image_id"]), int(one["category_id"])
            _check_known(file, one, image, images, category, categories)
            if not one.get("iscrowd", 0):
                left, top, width, height = (float(value) for value in one["bbox"])
                boxes[image].append([left, top, left + width, top + height])
                labels[image].append(number[category])
        names = [str(one["file_name"]) for one in images.values()]
        told = tuple((int(one["height"]), int(one["width"])) if {"height", "width"} <= one.keys() else None
                     for one in images.values())  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFile(
            str(file), f"it is not COCO's JSON ({type(error).__name__}: {error})",
            "it must have images, annotations with image_id, category_id and bbox, and categories",
        ) from error  # fmt: skip
    base = _folder_of(names, file, root)
    targets = [
        {"boxes": torch.tensor(boxes[image]).reshape(-1, 4), "labels": torch.tensor(labels[image]).long()}
        for image in images
    ]
    return tuple(name for _, name in categories), Listed(
        tuple(str(base / name) for name in names), targets, told
    )


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptFile(str(file), f"it is no JSON ({error})", "fetch or write it again") from error
    except OSError as error:
        raise InputError(str(file), f"it cannot be read ({error.strerror})", "make it readable") from error


def _check_known(
    file: Path, one: Mapping[str, Any], image: int, images: Mapping[int, Any], category: int, known: list[tuple[int, str]]
) -> None:  # fmt: skip
    if category not in {number for number, _ in known}:
        raise InputError(
            f"{file}, annotation {one.get('id')}", f"there is no category {category}",
            f"add it, or use one of {', '.join(f'{number} ({name})' for number, name in known[:8])}",
        )  # fmt: skip
    if image not in images:
        raise InputError(
            f"{file}, annotation {one.get('id')}",
            f"there is no image {image}",
            "add it, or remove the annotation",
        )


def _folder_of(names: list[str], file: Path, root: Path) -> Path:
    """Where the pictures are: `images/`, a folder of the part's name in it or beside it, or beside the JSON file."""
    part = file.stem.removeprefix("instances_")
    places = [root / "images", root / "images" / part, root / part, root, file.parent]
    if names:
        for place in places:
            if (place / names[0]).is_file():
                return place
    return places[0]
