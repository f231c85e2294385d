"""Boxes in COCO's JSON (cocodataset.org, "Data format"): `images`, `annotations`, `categories`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
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
        InputError: an annotation names a category or an image that there is not, or an id is of two.
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
    root = path if path.is_dir() else path.parent
    if root.name == "annotations":  # pictures are beside it, and not in it
        root = root.parent
    parts, classes = {}, None
    for part, file in files.items():
        names, parts[part] = _read(file, root)
        if classes is not None and names != classes:
            odd = sorted(set(names) ^ set(classes)) or list(names)
            raise InputError(
                str(file), f"its categories are not those of {files['train'].name}: {odd[0]!r}",
                "give all parts the same categories, in the same order",
            )  # fmt: skip
        classes = names
    meant = "left, top, width and height, in pixels,"
    return Annotated("coco", path, classes or (), parts, "detection", box=meant)


def _read(file: Path, root: Path) -> tuple[tuple[str, ...], Listed]:
    content = _json(file)
    try:
        categories = sorted((int(one["id"]), str(one["name"])) for one in content["categories"])
        images = [(int(one["id"]), str(one["file_name"]), _told(one)) for one in content["images"]]
        found = [
            (
                f"{file}, annotation {one.get('id')}",
                int(one["image_id"]),
                int(one["category_id"]),
                _corners(one),
            )
            for one in content["annotations"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CorruptFile(
            str(file), f"it is not COCO's JSON ({type(error).__name__}: {error})",
            "it must have images, annotations with image_id, category_id and bbox, and categories",
        ) from error  # fmt: skip
    if not categories:
        raise InputError(str(file), "it has no categories", "add one for each class: id and name")
    _check_once(file, "category", [number for number, _ in categories])
    _check_once(file, "image", [number for number, _, _ in images])
    number = {category: at for at, (category, _) in enumerate(categories)}
    boxes: dict[int, list[list[float]]] = {image: [] for image, _, _ in images}
    labels: dict[int, list[int]] = {image: [] for image, _, _ in images}
    said: dict[int, list[str]] = {image: [] for image, _, _ in images}
    for where, image, category, box in found:
        _check_known(where, image, boxes, category, categories)
        if box is not None:
            boxes[image].append(box)
            labels[image].append(number[category])
            said[image].append(where)
    names = [name for _, name, _ in images]
    base = _folder_of(names, file, root)
    targets = [
        {"boxes": torch.tensor(boxes[image]).reshape(-1, 4), "labels": torch.tensor(labels[image]).long()}
        for image in boxes
    ]
    return tuple(name for _, name in categories), Listed(
        tuple(str(base / name) for name in names),
        targets,
        tuple(told for _, _, told in images),
        [*said.values()],
    )


def _told(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width, where they are said."""
    return (int(image["height"]), int(image["width"])) if {"height", "width"} <= image.keys() else None


def _corners(annotation: Mapping[str, Any]) -> list[float] | None:
    """Left, top, right, bottom; None of a crowd."""
    if annotation.get("iscrowd", 0):
        return None
    left, top, width, height = (float(value) for value in annotation["bbox"])
    return [left, top, left + width, top + height]


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptFile(str(file), f"it is no JSON ({error})", "fetch or write it again") from error
    except OSError as error:
        raise InputError(str(file), f"it cannot be read ({error.strerror})", "make it readable") from error


def _check_once(file: Path, what: str, ids: list[int]) -> None:
    twice = [one for one, count in Counter(ids).items() if count > 1]
    if twice:
        raise InputError(
            str(file), f"{what} id {twice[0]} occurs {ids.count(twice[0])} times",
            f"give each {what} an id of its own",
        )  # fmt: skip


def _check_known(
    where: str, image: int, images: Collection[int], category: int, known: list[tuple[int, str]]
) -> None:
    if category not in {number for number, _ in known}:
        raise InputError(
            where, f"there is no category {category}",
            f"add it, or use one of {', '.join(f'{number} ({name})' for number, name in known[:8])}",
        )  # fmt: skip
    if image not in images:
        raise InputError(where, f"there is no image {image}", "add it, or remove the annotation")


def _folder_of(names: list[str], file: Path, root: Path) -> Path:
    """Where the pictures are: `images/`, a folder of the part's name in it or beside it, or beside the JSON file."""
    part = file.stem.removeprefix("instances_")
    places = [root / "images", root / "images" / part, root / part, root, file.parent]
    return next((place for place in places if names and (place / names[0]).is_file()), places[0])
