"""What a finished stage leaves in `stages/`: the digest of what decided it, its files, its result."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InputError

_LARGEST = 2**26
"""Bytes of a file that are read."""


def read_json(path: Path) -> Any:
    """What a file of a run or sweep holds; None if it cannot be read, is damaged, or far too large."""
    try:
        return None if path.stat().st_size > _LARGEST else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def read_marker(path: Path) -> dict[str, Any] | None:
    """What a stage left; None if it left nothing that can be read, so that it is done again."""
    marker = read_json(path)
    fields = {"key": str, "outputs": dict, "result": dict}
    whole = isinstance(marker, dict) and all(isinstance(marker.get(k), t) for k, t in fields.items())
    return marker if whole and all(map(_inside, marker["outputs"])) else None


def _inside(file: str) -> bool:
    """Whether the name of a file stays in its folder."""
    path = PurePosixPath(file)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def refuse_links(folder: Path) -> None:
    """Raise if a link in the folder, at any depth, leads out of it: what is written there would land elsewhere.

    Raises:
        InputError: there is one.
    """
    root = folder.resolve()
    for entry in folder.rglob("*"):
        if entry.is_symlink() and not entry.resolve().is_relative_to(root):
            raise InputError(
                str(entry), f"it is a link out of {folder}, to {entry.readlink()}", "remove the link"
            )


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def intact(folder: Path, outputs: dict[str, str]) -> bool:
    """Whether the files are as their digests say."""
    return all(
        (folder / file).is_file() and file_digest(folder / file) == sha for file, sha in outputs.items()
    )
