"""TensorBoard events of a training."""

from __future__ import annotations

import os
from typing import Any

from pintsize.errors import OperationError

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
        from torch.utils.tensorboard import SummaryWriter

        try:
            self._writer = SummaryWriter(os.fspath(log_dir), purge_step=done + 1)
        except OSError as error:
            raise OperationError(
                str(log_dir),
                f"cannot be written ({error.strerror or error})",
                "choose a folder that is writable and has room",
            ) from error

    def epoch(self, entry: dict[str, Any]) -> None:
        """Write the numbers of one epoch."""
        for key, value in entry.items():
            if key != "epoch" and isinstance(value, int | float):
                self._writer.add_scalar(TAGS.get(key, key), value, entry["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """Finish the event file."""
        self._writer.close()
