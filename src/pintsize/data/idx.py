"""IDX files, the format of MNIST and its kin (http://yann.lecun.com/exdb/mnist/, "the IDX file format")."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import CorruptFile
from .places import Decoded, Labelled, Place, check_labels

_UINT8 = 0x08
_FILES = {
    part: (f"{start}-images-idx3-ubyte", f"{start}-labels-idx1-ubyte")
    for part, start in (("train", "train"), ("test", "t10k"))
}


def read(path: Path) -> NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes, gzipped or not.

    Raises:
        CorruptFile: it is truncated, too long, or not such a file.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptFile(str(path), f"it cannot be read whole ({error})", "fetch it again") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UINT8:
        raise CorruptFile(str(path), "it is not an IDX file of unsigned bytes", "fetch it again")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise CorruptFile(str(path), "it ends within its header", "fetch it again")
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    if len(content) - start != math.prod(shape):
        raise CorruptFile(
            str(path),
            f"its header promises {math.prod(shape)} bytes of data {shape}, it holds {len(content) - start}",
            "fetch it again",
        )
    return np.frombuffer(bytearray(content), np.uint8, offset=start).reshape(shape)


def place(folder: Path, classes: tuple[str, ...]) -> Place:
    """A folder in which the four files of an MNIST-like data set may be, each gzipped or not."""
    found: dict[str, Path] = {}
    missing = []
    for name in (name for pair in _FILES.values() for name in pair):
        path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
        if path is None:
            missing.append(name)
        else:
            found[name] = path
    lacks = None
    if missing:
        lacks = f"it lacks {', '.join(missing)}" if folder.is_dir() else "there is no such folder"
    return Place(folder, lacks, tuple(found.values()), lambda: _decode(found, classes))


def _decode(found: dict[str, Path], classes: tuple[str, ...]) -> Decoded:
    parts = {}
    for part, (image_file, label_file) in _FILES.items():
        images, labels = (torch.from_numpy(read(found[name])) for name in (image_file, label_file))
        for array, name, dims in ((images, image_file, 3), (labels, label_file, 1)):
            if array.dim() != dims:
                raise CorruptFile(
                    str(found[name]), f"it has {array.dim()} dimensions, not {dims}", "fetch it again"
                )
        check_labels(labels, images=len(images), classes=len(classes), source=str(found[label_file]))
        parts[part] = Labelled(images.unsqueeze(-1), labels.long())
    return Decoded(parts, classes)
