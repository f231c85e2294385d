"""TensorBoard events of a training."""

from __future__ import annotations

import io
import os
import socket
import time
from pathlib import Path
from typing import Any

from pintsize.errors import OperationError
from pintsize.files import append

TAGS = {
    "lr": "lr",
    "train_loss": "loss/train",
    "val_loss": "loss/val",
    "train_accuracy": "accuracy/train",
    "val_accuracy": "accuracy/val",
    "seconds": "seconds",
}
"""Key of an epoch's entry → tag of its curve."""


class Logbook:
    """One point per epoch and number of the history.

    Written here and now: torch's `SummaryWriter` leaves it to a thread, whose failures come late and with
    a traceback of their own.

    Args:
        log_dir: TensorBoard's folder.
        done: epochs already done; events of later ones, from before a kill, are superseded.

    Raises:
        OperationError: the folder cannot be written to.
    """

    def __init__(self, log_dir: str | os.PathLike[str], done: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        folder = Path(log_dir)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / name).open("ab", buffering=0)
        except OSError as error:
            raise OperationError(
                str(log_dir),
                f"cannot be written ({error.strerror or error})",
                "choose a folder that is writable and has room",
            ) from error
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=done + 1, session_log=SessionLog(status=SessionLog.START)))

    def epoch(self, entry: dict[str, Any]) -> None:
        """Write the numbers of one epoch.

        Raises:
            OperationError: the disk is full.
        """
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=TAGS.get(key, key), simple_value=value)
            for key, value in entry.items()
            if key != "epoch" and isinstance(value, int | float)
        ]
        self._write(Event(step=entry["epoch"], summary=Summary(value=values)))

    def close(self) -> None:
        """Finish the event file."""
        self._file.close()

    def _write(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        event.wall_time = time.time()
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        append(self._file, record.getvalue())
