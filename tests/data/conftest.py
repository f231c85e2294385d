import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pintsize.data import catalog


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Empty data and cache folders of the test's own; the machine's data sets are out of sight."""
    monkeypatch.setenv("PINTSIZE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PINTSIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(catalog, "_DEBIAN", tmp_path / "debian")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture
def make_folder():
    """Write an image folder: {"class/name.png": (height, width)} or a list of counts per class."""

    def make(root: Path, counts: dict[str, int], size: tuple[int, int] = (8, 8)) -> Path:
        for number, (folder, count) in enumerate(counts.items()):
            (root / folder).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                colour = (10 * number, index, 200)
                Image.new("RGB", size[::-1], colour).save(root / folder / f"{index:03}.png")
        return root

    return make


@pytest.fixture
def gradient() -> Image.Image:
    """A 40×60 picture whose red is its row and whose green is its column."""
    rows, columns = np.mgrid[0:40, 0:60].astype(np.uint8)
    return Image.fromarray(np.stack([rows, columns, np.zeros_like(rows)], -1))


PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}
SIZES = [(40, 60), (60, 40), (40, 40), (30, 90)]


def picture(path, size, box=None):
    """Black, with a white rectangle."""
    pixels = np.zeros((*size, 3), np.uint8)
    if box is not None:
        left, top, right, bottom = box
        pixels[top:bottom, left:right] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def coco(
    root, counts=(("train", 8), ("val", 4)), sizes=SIZES, categories=((3, "cat"), (1, "dog")), **changes
):
    for part, count in counts:
        images, annotations = [], []
        for number in range(count):
            height, width = sizes[number % len(sizes)]
            name = f"{part}{number}.png"
            picture(root / "images" / name, (height, width), (10, 5, 10 + 4 * (number % 4 + 1), 25))
            images.append({"id": 100 + number, "file_name": name, "height": height, "width": width})
            if number != 1:
                annotations.append({"id": number, "image_id": 100 + number, "category_id": categories[number % 2][0],
                                    "bbox": [10, 5, 4 * (number % 4 + 1), 20], "iscrowd": 0, **changes})  # fmt: skip
        annotations.append(
            {"id": 99, "image_id": 101, "category_id": 3, "bbox": [0, 0, 30, 30], "iscrowd": 1}
        )
        file = root / "annotations" / f"instances_{part}2017.json"
        file.parent.mkdir(exist_ok=True)
        told = [{"id": number, "name": name} for number, name in categories]
        file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": told}))
    return root


def yolo(root, lines=None, names=("cat", "dog"), count=8):
    for part in ("train", "val"):
        for number in range(count):
            height, width = SIZES[number % len(SIZES)]
            right = 10 + 4 * (number % 4 + 1)
            picture(root / "images" / part / f"{number}.png", (height, width), (10, 5, right, 25))
            if number == 1:
                continue
            box = [(10 + right) / 2 / width, 15 / height, (right - 10) / width, 20 / height]
            label = root / "labels" / part / f"{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(lines or f"{number % 2} {' '.join(map(str, box))}\n")
    listed = "\n".join(f"  {at}: {name}" for at, name in enumerate(names))
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames:\n{listed}\n")
    return root / "data.yaml"


def masks(root, sizes=SIZES, count=8, form="L", highest=2):
    for number in range(count):
        size = sizes[number % len(sizes)]
        picture(root / "images" / f"{number}.jpg", size, (10, 5, 30, 25))
        values = np.zeros(size, np.uint8)
        values[5:25, 10:30] = number % highest + 1
        (root / "masks").mkdir(exist_ok=True)
        mask = Image.fromarray(values)
        if form == "P":
            mask = Image.fromarray(values, "L")
            mask.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        mask.save(root / "masks" / f"{number}.png")
    return root


def table(root, text="file,age,weight\n", count=10):
    for number in range(count):
        picture(root / "pictures" / f"{number}.png", (20, 30), (number, 0, number + 2, 20))
    rows = "".join(f"pictures/{number}.png,{number},{number / 2}\n" for number in range(count))
    (root / "set.csv").write_text(text + rows)
    return root / "set.csv"


def white(image):
    """The bounding box of what is white."""
    rows, columns = ((image[0] > 0.5).any(dim).nonzero().flatten() for dim in (1, 0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def all_of(split, **options):
    batches = split.batches(3, **options)
    return [pair for images, targets in batches for pair in zip(images, targets, strict=True)]


def edited(root, change, part="train"):
    file = root / "annotations" / f"instances_{part}2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return root


@pytest.fixture
def write():
    """What writes data sets with boxes, masks or numbers, and looks into what was read of them."""
    functions = (picture, coco, yolo, masks, table, white, all_of, edited)
    return SimpleNamespace(PLAIN=PLAIN, SIZES=SIZES, **{each.__name__: each for each in functions})
