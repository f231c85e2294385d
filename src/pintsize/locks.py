"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .errors import OperationError


@contextlib.contextmanager
def one_process(folder: Path, *, wait: float = 0) -> Iterator[None]:
    """Make the folder and keep other processes out; the system opens it again when the process dies, however it dies.

    Args:
        folder: to be made, if it is not there.
        wait: seconds to wait for another process.

    Raises:
        OperationError: the folder cannot be written, or another process uses it.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
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
