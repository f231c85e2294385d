"""Files written whole or not at all: beside the old one first, and renamed."""

from __future__ import annotations

import contextlib
import glob
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError, OperationError

_PARTIAL = ".partial"


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure `path` is untouched.

    Raises:
        OperationError: the folder is missing or read-only, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(_PARTIAL, f".{path.name}.", path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; ours are ordinary ones
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # it was renamed, or its disk is gone: nothing left to tidy
                temporary.unlink()


def remove_partial(folder: Path, within: str = "**", *, of: str | None = None) -> None:
    """Delete what writers that were killed left half done.

    Args:
        folder: that no other process writes to.
        within: pattern of its subfolders to look into; by default it and all of them.
        of: name of the file that was being written; by default any.
    """
    name = "*" if of is None else f"{glob.escape(of)}.*"
    for file in folder.glob(f"{within}/.{name}{_PARTIAL}"):
        file.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> OperationError:
    """The error for a file that cannot be written."""
    return OperationError(
        str(path),
        f"cannot be written ({error.strerror or error})",
        "choose a folder that is writable and has room; a file that was there before is unchanged",
    )


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` atomically as UTF-8."""
    write_bytes(path, text.encode())


def check_place(path: str | os.PathLike[str]) -> None:
    """Make sure, before any work is done, that `path` can be written when it is.

    Raises:
        InputError: it is a folder.
        OperationError: its folder cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(str(path), "it is a folder", f"name a file in it, such as {path / 'net'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent):
            pass
    except OSError as error:
        raise unwritable(path, error) from error


def append(file: io.FileIO, data: bytes) -> None:
    """Write `data` to an unbuffered file that is open, as logs are; what is in it stays.

    Raises:
        OperationError: the disk is full.
    """
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise OperationError(
            str(file.name), f"cannot be written ({error.strerror or error})", "make room, and start again"
        ) from error
