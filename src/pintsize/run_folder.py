"""A run's folder: one process at a time, a log, and stages that are not repeated once they are done.

Each stage leaves a marker with a digest of all that it depends on: its settings and the stage before it.
So a changed recipe redoes the first stage it concerns and all after it, and a killed run goes on where
it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from . import __version__
from .errors import OperationError
from .files import write_text
from .record import to_json as record_json

if TYPE_CHECKING:
    from .data import Data

logger = logging.getLogger("pintsize")

_MARKER_FORMAT = 1


class RunFolder:
    """Stages of one run and the files they write, in the order in which `stage` is called."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._chain = ""
        self._seen: set[str] = set()

    @contextlib.contextmanager
    def open(self) -> Iterator[RunFolder]:
        """Make the folder, keep other processes out, and log to `log.txt`.

        Raises:
            OperationError: the folder cannot be written, or another process uses it.
        """
        from filelock import FileLock, Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")  # the system frees it when the process dies, however it dies
            lock.acquire(timeout=0)
        except Timeout as error:
            raise OperationError(
                str(self.path), "another process is running in this folder", "wait for it, or choose another"
            ) from error
        except OSError as error:
            raise OperationError(
                str(self.path), f"it cannot be written ({error.strerror or error})", "choose another folder"
            ) from error
        self._chain, self._seen = "", set()
        try:
            with self._logging():
                yield self
        finally:
            lock.release()

    def stage(
        self, name: str, *, inputs: Any, outputs: Sequence[str], run: Callable[[str], dict[str, Any]]
    ) -> dict[str, Any]:
        """The result of a stage: from its marker if it is done, else by running it.

        Args:
            name: of the stage.
            inputs: JSON-able: all that decides its result, besides the stages before it.
            outputs: files of the folder that it writes; they must be as it left them to count as done.
            run: does it, given the digest of its inputs; returns a JSON-able result.
        """
        key = digest([_MARKER_FORMAT, __version__, self._chain, name, inputs])
        self._chain = key
        self._seen.add(name)
        marker = self._marker(name)
        done = _read_marker(marker)
        if done is not None and done["key"] == key and self._intact(done["outputs"]):
            logger.info("%s: done before", name)
            return dict(done["result"])
        marker.unlink(missing_ok=True)
        logger.info("%s: started", name)
        start = time.perf_counter()
        result = run(key)
        seconds = time.perf_counter() - start
        sums = {file: file_digest(self.path / file) for file in outputs}
        document = {"key": key, "seconds": seconds, "outputs": sums, "result": result}
        write_text(marker, json.dumps(document, indent=1))
        logger.info("%s: done in %.1f s", name, seconds)
        return result

    def forget_others(self) -> None:
        """Delete what stages left that are no longer part of the run."""
        kept = {
            file
            for name in self._seen
            if (done := _read_marker(self._marker(name))) is not None
            for file in done["outputs"]
        }
        for marker in sorted((self.path / "stages").glob("*.json")):
            done = _read_marker(marker)
            if marker.stem in self._seen or done is None:
                continue
            for file in done["outputs"].keys() - kept:
                (self.path / file).unlink(missing_ok=True)
            marker.unlink()

    def _marker(self, name: str) -> Path:
        return self.path / "stages" / f"{name}.json"

    def _intact(self, outputs: dict[str, str]) -> bool:
        return all(
            (self.path / file).is_file() and file_digest(self.path / file) == known
            for file, known in outputs.items()
        )

    @contextlib.contextmanager
    def _logging(self) -> Iterator[None]:
        level = logger.level
        try:
            handler = logging.FileHandler(self.path / "log.txt", encoding="utf-8")
        except OSError as error:
            raise OperationError(
                str(self.path / "log.txt"),
                f"it cannot be written ({error.strerror})",
                "choose another folder",
            ) from error
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            handler.close()


def _read_marker(path: Path) -> dict[str, Any] | None:
    """What a stage left; None if it left nothing that can be read, so that it is done again."""
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    fields = {"key": str, "outputs": dict, "result": dict}
    whole = isinstance(marker, dict) and all(isinstance(marker.get(k), t) for k, t in fields.items())
    return marker if whole else None


def digest(value: Any) -> str:
    """A hexadecimal digest of any JSON-able value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensor_digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, shapes, types and values."""
    import torch

    total = hashlib.sha256()
    for name, tensor in tensors.items():
        total.update(f"{name}\0{tuple(tensor.shape)}\0{tensor.dtype}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return total.hexdigest()


def model_digest(model: nn.Module) -> str:
    """A digest of what a network is: its printed structure, its record, its weights."""
    return digest([repr(model), record_json(model), tensor_digest(model.state_dict())])


def data_digest(data: Data) -> str:
    """A digest of what decides a run in a data set: name, splits, statistics."""
    labels = {
        name: split.labels for name, split in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    return digest([data.name, data.classes, data.image_shape, data.mean, data.std, tensor_digest(labels)])
