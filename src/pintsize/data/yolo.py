"""Boxes in Ultralytics' layout: a YAML that names folders of pictures, and a text file of boxes for each picture.

A line of `labels/…/NAME.txt` is a class, and the middle and the sides of a box as shares of the picture's; or a class and
the corners of a polygon, of which the box around it is taken (docs.ultralytics.com/datasets/detect). Where the YAML has
`kpt_shape`, as of poses, key points follow the box; they are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import CorruptFile, DataNotFound, InputError
from . import pictures
from .annotated import Annotated, Listed
from .lines import numbered
from .targets import Target


def scan(path: Path) -> Annotated:
    """Read a `data.yaml`; a picture without a text file has no boxes.

    Raises:
        DataNotFound: there is no such file, or none of the folders that it names.
        CorruptFile: it is no YAML of this form, or a text file is not of boxes.
        InputError: a class that it does not name; none of the pictures has boxes.
    """
    if not path.is_file():
        raise DataNotFound(
            f"YOLO data set {path}", "there is no such file", "name its YAML: yolo:PATH/data.yaml"
        )
    content = _yaml(path)
    named = _names(content.get("names"))
    if not named or sorted(named) != list(range(len(named))) or not content.get("train"):
        raise CorruptFile(
            str(path), "it has no train, or names that do not count from 0",
            "write train: images/train, val: images/val, names: {0: cat, 1: dog}",
        )  # fmt: skip
    points = _points(path, content.get("kpt_shape"))
    classes = tuple(named[at] for at in range(len(named)))
    parts = {}
    for part in ("train", "val", "test"):
        given = content.get(part)
        if given:
            files = [
                file
                for one in (given if isinstance(given, list) else [given])
                for file in _pictures(path, content, str(one))
            ]
            parts[part] = _listed(path, files, classes, points)
    meant = "the middle and the sides, as shares of the picture's width and height,"
    return Annotated("yolo", path, classes, parts, "detection", box=meant)


def _names(given: Any) -> dict[int, str]:
    """Names by number; none where they are not that."""
    if isinstance(given, list):
        return {at: str(name) for at, name in enumerate(given)}
    try:
        return {int(key): str(name) for key, name in given.items()}
    except (AttributeError, TypeError, ValueError):
        return {}


def _points(path: Path, shape: Any) -> int:
    """How many numbers of key points follow a box."""
    if shape is None:
        return 0
    if (
        not isinstance(shape, list)
        or [type(one) for one in shape] != [int, int]
        or shape[0] < 1
        or shape[1] not in (2, 3)
    ):
        raise CorruptFile(
            str(path), f"kpt_shape is {shape!r}, not a number of points and 2 or 3 numbers for each",
            "write kpt_shape: [17, 3]",
        )  # fmt: skip
    return int(shape[0] * shape[1])


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CorruptFile(str(path), f"it is no YAML ({error})", "write it anew") from error
    if not isinstance(content, dict):
        raise CorruptFile(str(path), "it is no YAML of keys and values", "write train:, val: and names:")
    return content


def _pictures(path: Path, content: dict[str, Any], given: str) -> list[Path]:
    root = path.parent / str(content.get("path") or "")
    # some tools write ../train/images and mean train/images beside the YAML
    tried = [root / given, path.parent / given, path.parent / given.removeprefix("../")]
    place = next((one for one in tried if one.exists()), None)
    if place is None:
        raise DataNotFound(
            str(path), f"it names {given}, which is not in {root.resolve()}", "correct path:, train: or val:"
        )
    if place.is_file():
        return [place.parent / line for _, line in numbered(place)]
    suffixes = pictures.suffixes()
    return sorted(file for file in place.rglob("*") if file.suffix.lower() in suffixes and file.is_file())


def _listed(path: Path, files: list[Path], classes: tuple[str, ...], points: int) -> Listed:
    labels = [_beside(file) for file in files]
    if files and not any(label.is_file() for label in labels):
        raise DataNotFound(
            str(path),
            f"no picture has a text file of boxes, such as {labels[0]}",
            "put them into labels/ beside images/",
        )
    targets: list[Target] = []
    said = []
    for file, label in zip(files, labels, strict=True):
        lines = numbered(label) if label.is_file() else []
        said.append([f"{label}, line {number}" for number, _ in lines])
        rows = [_row(where, line, classes, points) for where, (_, line) in zip(said[-1], lines, strict=True)]
        H, W = pictures.size_of(file) if rows else (1, 1)
        boxes = torch.tensor([box for _, box in rows]).reshape(-1, 4) * torch.tensor([W, H]).repeat(2)
        targets.append({"boxes": boxes, "labels": torch.tensor([at for at, _ in rows]).long()})
    return Listed(tuple(map(str, files)), targets, said=said)


def _beside(file: Path) -> Path:
    """`…/images/…/NAME.jpg` → `…/labels/…/NAME.txt`, by the last folder called images."""
    folders = list(file.parts)
    at = next((at for at in range(len(folders) - 2, -1, -1) if folders[at] == "images"), None)
    if at is not None:
        folders[at] = "labels"
    return Path(*folders).with_suffix(".txt")


def _row(where: str, line: str, classes: tuple[str, ...], points: int) -> tuple[int, list[float]]:
    """Class and left, top, right, bottom as shares."""
    try:
        first, *values = (float(word) for word in line.split())
    except ValueError as error:
        raise CorruptFile(
            where, f"{line[:60]!r} is not made of numbers", "write class x y width height"
        ) from error
    _check_numbers(where, values, points)
    if first not in range(len(classes)):
        raise InputError(
            where,
            f"there is no class {first:g}",
            f"the YAML names 0 to {len(classes) - 1}: add it, or correct the line",
        )
    if len(values) == 4 or points:
        x, y, width, height = values[:4]
        return int(first), [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    return int(first), [min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])]


def _check_numbers(where: str, values: list[float], points: int) -> None:
    """Raise unless they are a box, with key points if there are to be some, or else a polygon."""
    count = len(values)
    if points and count not in (4, 4 + points):
        raise CorruptFile(
            where, f"{count} numbers follow the class, not 4, or 4 and {points} of its points",
            "write class x y width height and the points, as the YAML's kpt_shape says",
        )  # fmt: skip
    if points or count == 4:
        return
    # a point of a pose is x, y and whether it is seen: 0, 1 or 2; no polygon has these in every third place
    if count > 6 and count % 3 == 1 and set(values[6::3]) <= {0, 1, 2}:
        raise InputError(
            where, f"a box and {(count - 4) // 3} key points follow the class, of which the YAML says nothing",
            f"write kpt_shape: [{(count - 4) // 3}, 3] into it for the boxes to be read",
        )  # fmt: skip
    if count < 6 or count % 2:
        raise CorruptFile(
            where, f"{count} numbers follow the class, not 4, or the corners of a polygon",
            "write class x y width height",
        )  # fmt: skip
