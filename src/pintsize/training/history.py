"""What happened in each epoch of a training."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pintsize.errors import CorruptFile, InputError

from ..storage.atomic import write_text
from ..tables import judged


class History(list[dict[str, Any]]):
    """One dictionary per finished epoch, oldest first; JSON-able.

    Keys: `epoch` (counted from 1), `lr` (of the epoch's last step), `train_loss`, `train_accuracy`,
    `val_loss`, `val_accuracy` (percent; None if the validation split is empty), `seconds`; callbacks
    may add more. Of tasks other than classification: `val_metric`, `metric_name`, `metric_unit` and
    `higher_is_better` in place of the accuracies.
    """

    @property
    def best(self) -> dict[str, Any] | None:
        """The epoch that is best on validation (else in training), the first of equals."""
        return max(self, key=_merit, default=None)

    def _repr_html_(self) -> str:
        from pintsize.viz import training_curves

        return str(training_curves(self)._repr_html_()) if self else "<p>no epochs</p>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the epochs as a JSON list, atomically.

        Raises:
            OperationError: the file cannot be written.
        """
        write_text(path, json.dumps(self, indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> History:
        """Read what `save` wrote.

        Raises:
            InputError: there is no such file.
            CorruptFile: it is not a history.
        """
        try:
            content = json.loads(Path(path).read_bytes())
        except FileNotFoundError as error:
            raise InputError(str(path), "there is no such file", "check the path") from error
        except (ValueError, RecursionError) as error:
            raise CorruptFile(str(path), f"it is not JSON ({error})", "restore it from a copy") from error
        if not isinstance(content, list) or not all(isinstance(epoch, dict) for epoch in content):
            raise CorruptFile(str(path), "it is not a list of epochs", "pass a file that History.save wrote")
        return cls(content)


def _merit(epoch: dict[str, Any]) -> float:
    found = judged(epoch, "val_")
    if found is None:
        found = judged(epoch, "train_")
    if found is None:
        return -float(epoch["train_loss"])
    return found if epoch.get("higher_is_better", True) else -found
