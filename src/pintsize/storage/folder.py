"""A run's folder: one process at a time, a log, and stages that are not repeated once they are done.

Each stage leaves a marker with a digest of all that it depends on: its settings and the stage before it.
So a changed recipe redoes the first stage it concerns and all after it, and a killed run goes on where
it was.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..version import __version__
from . import logs
from .atomic import remove_partial, write_text
from .digests import digest
from .locks import one_process
from .markers import file_digest, intact, read_marker, refuse_links
from .store import StageStore

logger = logging.getLogger("pintsize")

_MARKER_FORMAT = 1


class RunFolder:
    """Stages of one run and the files they write, in the order in which `stage` is called.

    Args:
        path: of the folder.
        shared: a folder in which several runs keep the stages that they have in common.
    """

    def __init__(self, path: str | os.PathLike[str], *, shared: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path)
        self._store = None if shared is None else StageStore(shared)
        self._chain = ""
        self._seen: set[str] = set()

    @contextlib.contextmanager
    def open(self) -> Iterator[RunFolder]:
        """Make the folder, keep other processes out, and log to `log.txt`.

        Raises:
            OperationError: the folder cannot be written, or another process uses it.
            InputError: a link in it leads out of it.
        """
        with one_process(self.path):
            self._chain, self._seen = "", set()
            refuse_links(self.path)
            remove_partial(self.path)
            with logs.to_file(self.path / "log.txt"):
                try:
                    yield self
                except Exception as error:
                    logs.event(logger, "failed", logging.ERROR, error=f"{type(error).__name__}: {error}")
                    raise

    def stage(
        self,
        name: str,
        *,
        inputs: Any,
        outputs: Sequence[str],
        run: Callable[[str], dict[str, Any]],
        shared: bool = False,
    ) -> dict[str, Any]:
        """The result of a stage: from its marker if it is done, else by running it.

        Args:
            name: of the stage.
            inputs: JSON-able: all that decides its result, besides the stages before it.
            outputs: files of the folder that it writes; they must be as it left them to count as done.
            run: does it, given the digest of its inputs; returns a JSON-able result.
            shared: take it from the shared folder, or leave it there, if the run has one.
        """
        key = digest([_MARKER_FORMAT, __version__, self._chain, name, inputs])
        self._chain = key
        self._seen.add(name)
        marker = self._marker(name)
        done = read_marker(marker)
        if done is not None and done["key"] == key and intact(self.path, done["outputs"]):
            logs.event(logger, f"{name}: done before", stage=name, event="reused")
            return dict(done["result"])
        marker.unlink(missing_ok=True)
        store = self._store if shared else None
        with store.turn(key) if store is not None else contextlib.nullcontext():
            done = store.recall(key, self.path) if store is not None else None
            if done is not None:
                logs.event(logger, f"{name}: done before by another run", stage=name, event="reused")
            else:
                done = self._run(name, key, outputs, run)
                if store is not None:
                    store.keep(key, self.path, done)
        write_text(marker, json.dumps(done, indent=1))
        return dict(done["result"])

    def _run(
        self, name: str, key: str, outputs: Sequence[str], run: Callable[[str], dict[str, Any]]
    ) -> dict[str, Any]:
        """The marker of a stage that is done now."""
        logs.event(logger, f"{name}: started", stage=name, event="started")
        start = time.perf_counter()
        result = run(key)
        seconds = time.perf_counter() - start
        sums = {file: file_digest(self.path / file) for file in outputs}
        logs.event(logger, f"{name}: done in {seconds:.1f} s", stage=name, event="done", seconds=seconds)
        return {"key": key, "seconds": seconds, "outputs": sums, "result": result}

    def forget_others(self) -> None:
        """Delete what stages left that are no longer part of the run."""
        kept = {
            file
            for name in self._seen
            if (done := read_marker(self._marker(name))) is not None
            for file in done["outputs"]
        }
        for marker in sorted((self.path / "stages").glob("*.json")):
            done = read_marker(marker)
            if marker.stem in self._seen or done is None:
                continue
            for file in done["outputs"].keys() - kept:
                (self.path / file).unlink(missing_ok=True)
            marker.unlink()

    def _marker(self, name: str) -> Path:
        return self.path / "stages" / f"{name}.json"
