"""The epochs of a run: into its log, and to whoever follows it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..storage import logs
from ..training.callbacks import Callback, TrainState

_logger = logging.getLogger("pintsize")
_LOGGED = ("epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_metric", "seconds")


class Epochs(Callback):
    """Tells each epoch of a stage.

    Args:
        stage: its name.
        on_epoch: called with the name and the entry of the history.
    """

    def __init__(self, stage: str, on_epoch: Callable[[str, dict[str, Any]], None] | None) -> None:
        self._stage, self._on_epoch = stage, on_epoch

    def on_epoch_end(self, state: TrainState) -> None:
        """Log the epoch and hand it on."""
        entry = state.history[-1]
        told = {key: entry[key] for key in _LOGGED if entry.get(key) is not None}
        message = f"{self._stage}: epoch {entry['epoch']} of {state.epochs}"
        logs.event(_logger, message, of=self._stage, **told)
        if self._on_epoch is not None:
            self._on_epoch(self._stage, entry)
