"""Boxes in Ultralytics' layout: a YAML that names folders of pictures, and a text file of boxes for each picture.

A line of `labels/…/NAME.txt` is a class, and the middle and the sides of a box as shares of the picture's; or a class and
the corners of a polygon, of which the box around it is taken (docs.ultralytics.com/datasets/detect).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import CorruptFile, DataNotFound, InputError
from . import pictures
from .annotated import Annotated, Listed
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
    names = content.get("names")
    named = {int(key): str(name) for key, name in names.items()} if isinstance(names, dict) else None
    if isinstance(names, list):
        named = {at: str(name) for at, name in enumerate(names)}
    if not named or sorted(named) != list(range(len(named))) or not content.get("train"):
        raise CorruptFile(
            str(path), "it has no train, or names that do not count from 0",
            "write train: images/train, val: images/val, names: {0: cat, 1: dog}",
        )  # fmt: skip
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
            parts[part] = Listed(tuple(map(str, files)), _targets(path, files, classes))
    return Annotated("yolo", path, classes, parts, "detection")


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
        lines = [line.strip() for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [place.parent / line for line in lines]
    suffixes = pictures.suffixes()
    return sorted(file for file in place.rglob("*") if file.suffix.lower() in suffixes and file.is_file())


def _targets(path: Path, files: list[Path], classes: tuple[str, ...]) -> list[Target]:
    labels = [_beside(file) for file in files]
    if files and not any(label.is_file() for label in labels):
        raise DataNotFound(
            str(path),
            f"no picture has a text file of boxes, such as {labels[0]}",
            "put them into labels/ beside images/",
        )
    targets = []
    for file, label in zip(files, labels, strict=True):
        lines = label.read_text(encoding="utf-8").splitlines() if label.is_file() else []
        rows = [_row(label, number, line, classes) for number, line in enumerate(lines, 1) if line.strip()]
        H, W = pictures.size_of(file) if rows else (1, 1)
        boxes = torch.tensor([box for _, box in rows]).reshape(-1, 4) * torch.tensor([W, H]).repeat(2)
        targets.append({"boxes": boxes, "labels": torch.tensor([at for at, _ in rows]).long()})
    return targets


def _beside(file: Path) -> Path:
    """`…/images/…/NAME.jpg` → `…/labels/…/NAME.txt`, by the last folder called images."""
    folders = list(file.parts)
    at = next((at for at in range(len(folders) - 2, -1, -1) if folders[at] == "images"), None)
    if at is not None:
        folders[at] = "labels"
    return Path(*folders).with_suffix(".txt")


def _row(label: Path, number: int, line: str, classes: tuple[str, ...]) -> tuple[int, list[float]]:
    """Class and left, top, right, bottom as shares."""
    where = f"{label}, line {number}"
    try:
        first, *values = (float(word) for word in line.split())
    except ValueError as error:
        raise CorruptFile(
            where, f"{line.strip()[:60]!r} is not made of numbers", "write class x y width height"
        ) from error
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise CorruptFile(
            where, f"{len(values)} numbers follow the class, not 4, or the corners of a polygon",
            "write class x y width height",
        )  # fmt: skip
    if first not in range(len(classes)):
        raise InputError(
            where,
            f"there is no class {first:g}",
            f"the YAML names 0 to {len(classes) - 1}: add it, or correct the line",
        )
    if len(values) == 4:
        x, y, width, height = values
        return int(first), [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    return int(first), [min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])]
