"""Decoded data sets kept as memory-mapped files, so that the next start is quick.

One safetensors file per data set, named after what was asked for; inside are the pixels, a fingerprint of
the files they came from and a checksum. A file that is stale, damaged or truncated is made anew, and without
a writable cache folder everything works, only slower.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor

from ..errors import OperationError
from ..storage.atomic import atomic
from .places import Decoded, Labelled, cache_folder

_FORMAT = 1
_log = logging.getLogger(__name__)


def fingerprint(entries: Iterable[tuple[str, int, int]]) -> str:
    """Digest of files by (path, bytes, modification time in ns): another one when any of them changes."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(repr(entry).encode(errors="surrogateescape"))
    return digest.hexdigest()


def of_files(paths: Iterable[Path]) -> str:
    """`fingerprint` of these files."""
    states = ((path, path.stat()) for path in paths)
    return fingerprint((str(path), state.st_size, state.st_mtime_ns) for path, state in states)


def remembered(name: str, identity: str, origin: str, decode: Callable[[], Decoded]) -> Decoded:
    """The decoded data set from its cache file, or decoded now and kept for the next time.

    Args:
        name: the readable start of the file's name.
        identity: what was asked for (place and options): one cache file each.
        origin: fingerprint of what it is decoded from.
        decode: makes it.
    """
    found = recall(name, identity, origin)
    if found is None:
        found = decode()
        keep(name, identity, origin, found)
    return found


def keep(name: str, identity: str, origin: str, decoded: Decoded) -> None:
    """Write the cache file; where that is impossible, only the log says so, for nothing but time is lost."""
    try:
        _write(where(name, identity), origin, decoded)
    except OperationError as error:
        _log.info("decoded data is not kept for the next start: %s", error)


def where(name: str, identity: str) -> Path:
    """The cache file of what was asked for."""
    return (
        cache_folder()
        / f"{name}-{hashlib.sha256(identity.encode(errors='surrogateescape')).hexdigest()[:16]}.safetensors"
    )


def _write(path: Path, origin: str, decoded: Decoded) -> None:
    from safetensors.torch import save_file

    tensors = {}
    for part, (images, labels) in decoded.parts.items():
        tensors[f"{part}.images"], tensors[f"{part}.labels"] = images.contiguous(), labels.contiguous()
    classes = json.dumps(decoded.classes)
    header = {
        "format": str(_FORMAT),
        "origin": origin,
        "classes": classes,
        "checksum": _checksum(classes, tensors),
    }
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def recall(name: str, identity: str, origin: str) -> Decoded | None:
    """The content of the cache file, memory-mapped; None if there is none, or it is stale or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(where(name, identity), framework="pt") as file:
            header = file.metadata() or {}
            if (header.get("format"), header.get("origin")) != (str(_FORMAT), origin):
                return None
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        if header["checksum"] != _checksum(header["classes"], tensors):
            return None
        parts = {
            key.removesuffix(".images"): Labelled(images, tensors[key.replace(".images", ".labels")])
            for key, images in tensors.items()
            if key.endswith(".images")
        }
        return Decoded(parts, tuple(json.loads(header["classes"])))
    except (SafetensorError, OSError, ValueError, KeyError):
        return None


def _checksum(classes: str, tensors: dict[str, Tensor]) -> str:
    """CRC-32 of everything: it guards against damage, not malice, and reads gigabytes a second."""
    crc = zlib.crc32(classes.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        crc = zlib.crc32(f"{name}{tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.numpy().data if tensor.numel() else b"", crc)
    return f"{crc:08x}"
