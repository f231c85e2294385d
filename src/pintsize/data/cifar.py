"""CIFAR-10 and CIFAR-100 in their official binary version, which needs no unpickling.

Source: https://www.cs.toronto.edu/~kriz/cifar.html, "binary version". A record is one label byte (CIFAR-100:
the coarse label, then the fine one, which is used) and 3072 bytes of pixels, plane by plane, row by row.
"""

from __future__ import annotations

import dataclasses
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..errors import CorruptFile
from .places import Decoded, Labelled, Place, check_labels

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


@dataclasses.dataclass(frozen=True)
class Layout:
    """The files of one of the two data sets."""

    folder: str
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    """The text file of class names."""
    classes: int
    label_bytes: int
    """Of a record; the last one is the class."""
    train_images: int = 50_000
    test_images: int = 10_000

    @property
    def files(self) -> tuple[str, ...]:
        """All files that are read."""
        return (*self.train, *self.test, self.names)


CIFAR10 = Layout(
    "cifar-10-batches-bin",
    "cifar-10-binary.tar.gz",
    tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    ("test_batch.bin",),
    "batches.meta.txt",
    10,
    1,
)
CIFAR100 = Layout(
    "cifar-100-binary",
    "cifar-100-binary.tar.gz",
    ("train.bin",),
    ("test.bin",),
    "fine_label_names.txt",
    100,
    2,
)


def places(layout: Layout, root: Path) -> tuple[Place, ...]:
    """The folder and the archive below `root` in which the data set may be."""
    folder, archive = root / layout.folder, root / layout.archive
    missing = [name for name in layout.files if not (folder / name).is_file()]
    no_folder = None
    if missing:
        no_folder = f"it lacks {', '.join(missing)}" if folder.is_dir() else "there is no such folder"
    return (
        Place(
            folder,
            no_folder,
            tuple(folder / name for name in layout.files),
            lambda: _decode(layout, lambda name: _file_bytes(folder / name), folder),
        ),
        Place(
            archive,
            None if archive.is_file() else "there is no such file",
            (archive,),
            lambda: _decode_archive(layout, archive),
        ),
    )


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorruptFile(
            str(path), f"it cannot be read ({error.strerror})", "check its permissions"
        ) from error


def _decode_archive(layout: Layout, archive: Path) -> Decoded:
    content: dict[str, bytes] = {}
    try:
        # Members are read into memory by their name and never unpacked, so the archive cannot write anywhere.
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None and Path(member.name).name in layout.files:
                    content[Path(member.name).name] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise CorruptFile(str(archive), f"it is not a whole archive ({error})", "fetch it again") from error
    for name in layout.files:
        if name not in content:
            raise CorruptFile(
                str(archive), f"it lacks {name}", "fetch the binary version, not the Python or Matlab one"
            )
    return _decode(layout, content.__getitem__, archive)


def _decode(layout: Layout, read: Callable[[str], bytes], source: Path) -> Decoded:
    names = tuple(read(layout.names).decode(errors="replace").split())
    if len(names) != layout.classes:
        raise CorruptFile(
            str(source / layout.names),
            f"it names {len(names)} classes, not {layout.classes}",
            "fetch it again",
        )
    parts = {}
    for part, files, images in (
        ("train", layout.train, layout.train_images),
        ("test", layout.test, layout.test_images),
    ):
        # The training files are equal shares of the set.
        read_files = [_records(layout, read(name), source / name, images // len(files)) for name in files]
        parts[part] = Labelled(
            torch.cat([part.images for part in read_files]), torch.cat([part.labels for part in read_files])
        )
    return Decoded(parts, names)


def _records(layout: Layout, content: bytes, path: Path, images: int) -> Labelled:
    length = layout.label_bytes + _PIXELS
    if len(content) != images * length:
        raise CorruptFile(
            str(path),
            f"it has {len(content)} bytes, {images} images take {images * length}",
            "fetch it again",
        )
    records = np.frombuffer(content, np.uint8).reshape(images, length)
    labels = torch.from_numpy(records[:, layout.label_bytes - 1].astype(np.int64))
    check_labels(labels, images=images, classes=layout.classes, source=str(path))
    planes = records[:, layout.label_bytes :].reshape(images, 3, _SIDE, _SIDE)
    return Labelled(torch.from_numpy(np.ascontiguousarray(planes.transpose(0, 2, 3, 1))), labels)
