"""Stages that several runs have in common, done once: the trials of a sweep share their dense network."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import OperationError
from .atomic import atomic, remove_partial, write_text
from .locks import lock_at
from .markers import intact, read_marker

_MARKER = "stage.json"


class StageStore:
    """A folder of finished stages by key, the digest of all that decides them.

    Args:
        path: on storage that all runs see.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @contextlib.contextmanager
    def turn(self, key: str) -> Iterator[None]:
        """Wait until no other run is doing this stage; the system ends the wait if that run dies.

        Raises:
            OperationError: the folder cannot be written.
            InputError: the lock is a link.
        """
        lock = lock_at(self.path / f"{key[:32]}.lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            raise OperationError(
                str(self.path), f"it cannot be written ({error.strerror or error})", "choose another folder"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def recall(self, key: str, folder: Path) -> dict[str, Any] | None:
        """The marker of a finished stage, its files put into `folder`; None if it is not here or not intact."""
        kept = self.path / key[:32]
        marker = read_marker(kept / _MARKER)
        if marker is None or marker["key"] != key or not intact(kept, marker["outputs"]):
            return None
        for file in marker["outputs"]:
            _copy(kept / file, folder / file)
        return marker

    def keep(self, key: str, folder: Path, marker: dict[str, Any]) -> None:
        """Note a finished stage; its marker is written last, so that half of one is none."""
        kept = self.path / key[:32]
        remove_partial(kept)
        for file in marker["outputs"]:
            _copy(folder / file, kept / file)
        write_text(kept / _MARKER, json.dumps(marker))


def _copy(source: Path, target: Path) -> None:
    """A second name for the file where the storage has them: no file of a run is ever changed in place."""
    with atomic(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
