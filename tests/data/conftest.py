from collections.abc import Iterator
from pathlib import Path

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
