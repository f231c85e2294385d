"""TensorBoard events of a training."""

from __future__ import annotations

import os
from typing import Any

from .events import EventFile

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

    Args:
        log_dir: TensorBoard's folder.
        done: epochs already done; events of later ones, from before a kill, are superseded.

    Raises:
        OperationError: the folder cannot be written to.
    """

    def __init__(self, log_dir: str | os.PathLike[str], done: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self._events = EventFile(log_dir)
        self._events.write(Event(step=done + 1, session_log=SessionLog(status=SessionLog.START)))

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
        self._events.write(Event(step=entry["epoch"], summary=Summary(value=values)))

    def close(self) -> None:
        """Finish the event file."""
        self._events.close()
