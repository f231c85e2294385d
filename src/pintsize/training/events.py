"""A TensorBoard event file, written here and now."""

from __future__ import annotations

import io
import os
import socket
import time
from itertools import count
from pathlib import Path
from typing import Any

from pintsize.errors import OperationError
from pintsize.storage.atomic import append

_NUMBERS = count()


class EventFile:
    """Events of one writer in one file.

    torch's `SummaryWriter` leaves the writing to a thread, whose failures come late and with a traceback of
    their own.

    Args:
        folder: TensorBoard's folder.

    Raises:
        OperationError: the folder cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        place = Path(folder)
        writer = f"{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}"
        try:
            place.mkdir(parents=True, exist_ok=True)
            self._file = (place / f"events.out.tfevents.{int(time.time()):010d}.{writer}").open(
                "ab", buffering=0
            )
        except OSError as error:
            raise OperationError(
                str(folder),
                f"cannot be written ({error.strerror or error})",
                "choose a folder that is writable and has room",
            ) from error
        self.write(Event(file_version="brain.Event:2"))

    def write(self, event: Any) -> None:
        """Add one event, of `tensorboard.compat.proto`; where that fails, the file is finished.

        Raises:
            OperationError: the disk is full.
        """
        from tensorboard.summary.writer.record_writer import RecordWriter

        event.wall_time = time.time()
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        try:
            append(self._file, record.getvalue())
        except OperationError:
            self.close()
            raise

    def close(self) -> None:
        """Finish the file."""
        self._file.close()
