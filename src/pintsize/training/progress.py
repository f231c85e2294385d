"""What a person sees while a network trains: a bar on a terminal, one line per epoch elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from ..tables import judged
from ..units import Scale


class Silent:
    """Shows nothing; base of the others."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        pass

    def step(self) -> None:
        """One optimizer step is done."""

    def epoch(self, entry: dict[str, Any]) -> None:
        """One epoch is done; `entry` is its place in the history."""


class Lines(Silent):
    """One plain line per epoch on standard error, with the time that is left."""

    def __init__(self, epochs: int, done: int) -> None:
        self._epochs, self._first, self._start = epochs, done, time.monotonic()

    def epoch(self, entry: dict[str, Any]) -> None:
        """Write the line."""
        done = entry["epoch"]
        left = (time.monotonic() - self._start) / (done - self._first) * (self._epochs - done)
        sys.stderr.write(
            f"epoch {done}/{self._epochs}  {summary(entry)}  {entry['seconds']:.1f} s  ETA {left:.0f} s\n"
        )
        sys.stderr.flush()


class Bar(Silent):
    """A bar with the time that is left, and above it one line per epoch."""

    def __init__(self, epochs: int, done: int, steps_per_epoch: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._epochs = epochs
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(
            f"epoch {done + 1}/{epochs}", total=epochs * steps_per_epoch, completed=done * steps_per_epoch
        )

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self) -> None:
        """Move on by one step."""
        self._progress.advance(self._task)

    def epoch(self, entry: dict[str, Any]) -> None:
        """Write the epoch's line above the bar."""
        done = entry["epoch"]
        self._progress.console.print(
            f"epoch {done}/{self._epochs}  {summary(entry)}  {entry['seconds']:.1f} s", highlight=False
        )
        self._progress.update(self._task, description=f"epoch {min(done + 1, self._epochs)}/{self._epochs}")


def reporter(progress: bool | None, epochs: int, done: int, steps_per_epoch: int, *, main: bool) -> Silent:
    """A bar on a terminal, else lines; nothing for `progress=False` and in secondary processes."""
    if progress is False or not main:
        return Silent()
    return Bar(epochs, done, steps_per_epoch) if sys.stderr.isatty() else Lines(epochs, done)


def summary(entry: dict[str, Any]) -> str:
    """Learning rate, losses and accuracies of an epoch."""
    scale = Scale.of(entry)
    name = "" if scale.is_accuracy else f"{scale.metric} "
    text = f"lr {entry['lr']:.4g}  loss {entry['train_loss']:.4f}"
    for part in ("train", "val"):
        if part == "val" and entry.get("val_loss") is not None:
            text += f"  val loss {entry['val_loss']:.4f}"
        if (value := judged(entry, f"{part}_")) is not None:
            text += f"  {part} {name}{scale.told(value)}"
    return text
