"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, OperationError

if TYPE_CHECKING:
    from filelock import FileLock


def lock_at(path: Path) -> FileLock:
    """The lock that this file is, not taken yet.

    Raises:
        InputError: it is a link: opening it would empty what it leads to.
    """
    from filelock import FileLock

    if path.is_symlink():
        raise InputError(
            str(path), f"it is a link, to {path.readlink()}, and a lock never is", "remove the link"
        )
    return FileLock(path)


@contextlib.contextmanager
def one_process(folder: Path, *, wait: float = 0) -> Iterator[None]:
    """Make the folder and keep other processes out; the system opens it again when the process dies, however it dies.

    Args:
        folder: to be made, if it is not there.
        wait: seconds to wait for another process.

    Raises:
        OperationError: the folder cannot be written, another process uses it, or torchrun started several.
        InputError: its lock is a link.
    """
    from filelock import Timeout

    launched = os.environ.get("WORLD_SIZE", "") if "RANK" in os.environ else ""
    if launched.isdigit() and int(launched) > 1:
        raise OperationError(
            str(folder),
            f"{launched} processes were launched, and one alone can work in a folder",
            "launch a program that calls pintsize.train alone, and go on with its network in another",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_at(folder / ".lock")
        lock.acquire(timeout=wait)
    except Timeout as error:
        raise OperationError(
            str(folder), "another process is running in this folder", "wait for it, or choose another"
        ) from error
    except OSError as error:
        raise OperationError(
            str(folder), f"it cannot be written ({error.strerror or error})", "choose another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()
