"""How long a search has been at work, over all its starts, and what ends it."""

from __future__ import annotations

import math
import time

from ..training.callbacks import Callback, TrainState


class TimeIsUp(Exception):
    """The time limit passed in the midst of a training; never leaves the search."""


class Clock:
    """Seconds spent by finished parts, those of earlier starts among them, and by the one that runs.

    Args:
        minutes: the limit; None for none.
    """

    def __init__(self, minutes: float | None) -> None:
        self.limit = math.inf if minutes is None else 60 * minutes
        self.spent = 0.0
        self._since = time.monotonic()

    def begin(self) -> None:
        """A part begins."""
        self._since = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Of the part that runs."""
        return time.monotonic() - self._since

    @property
    def left(self) -> float:
        """Seconds until the limit, between two parts."""
        return self.limit - self.spent


class Deadline(Callback):
    """Ends a training when the clock says so.

    Raises:
        TimeIsUp: from within the training.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_step_end(self, state: TrainState) -> None:  # noqa: ARG002
        """Look at the clock."""
        if self._clock.elapsed > self._clock.left:
            raise TimeIsUp
