"""Asynchronous successive halving (Li et al., 2020, Alg. 2, in the stopping form) on shared storage.

Each trial leaves its value at each rung as a file, so the rule needs no process that must not die: trials on
any machine, and those of a sweep that is taken up again, see what the others reached.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..storage.atomic import write_text
from ..storage.markers import read_json
from ..tables import judged
from ..units import Scale


class Stopped(Exception):
    """A trial fell behind; it ends here, and is no failure."""


@dataclass(frozen=True)
class Asha:
    """What one trial asks after each epoch.

    Args:
        folder: of all rungs.
        trial: what names this trial's values.
        stage: the training that is watched.
        grace: epochs before the first rung.
        factor: of the trials at a rung, the best 1/factor go on.
    """

    folder: Path
    trial: str
    stage: str
    grace: int
    factor: int

    def __call__(self, stage: str, entry: dict[str, Any]) -> None:
        """After an epoch.

        Raises:
            Stopped: the trial is not among the best at this rung.
        """
        epoch, value = int(entry["epoch"]), judged(entry, "val_")
        if stage != self.stage or value is None or not self._is_rung(epoch):
            return
        scale = Scale.of(entry)
        value = scale.merit(value)
        rung = self.folder / f"{self.stage}-{epoch}"
        write_text(rung / f"{self.trial}.json", json.dumps(value))
        values = [_value(file) for file in rung.glob("*.json")]
        reached = sorted((one for one in values if one is not None), reverse=True) or [value]
        # as many as may go on, one at least: the first to come is not held up by the lack of others
        cutoff = reached[max(1, len(reached) // self.factor) - 1]
        if value < cutoff:
            mine, least = (scale.told(scale.merit(one)) for one in (value, cutoff))
            raise Stopped(f"{mine} after epoch {epoch} of {stage}; going on takes {least}")

    def _is_rung(self, epoch: int) -> bool:
        rung = self.grace
        while rung < epoch:
            rung *= self.factor
        return rung == epoch


def forget_others(folder: Path, trials: Collection[str]) -> None:
    """Delete the values of trials that are no longer part of the sweep: they would stop those that are."""
    for file in folder.glob("*/*.json"):
        if file.stem not in trials:
            file.unlink()


def _value(file: Path) -> float | None:
    """What a trial left at a rung; a file that holds no number stays: its trial may be about to replace it."""
    value = read_json(file)
    return value if type(value) in {int, float} and math.isfinite(value) else None
