"""One trial of a sweep: a run in its own folder, and the record of how it ended."""

from __future__ import annotations

import gc
import json
import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import PintsizeError
from ..storage import logs
from ..storage.atomic import write_text
from ..storage.locks import one_process
from ..storage.markers import read_json
from .asha import Asha, Stopped
from .sweep_file import AshaSection, Trial

_logger = logging.getLogger(__name__)
_WAIT = 120
"""Seconds that a trial waits for its folder: a worker whose driver died takes a moment to die itself."""
MEMORY_HINT = (
    "it ran out of memory: lower train.batch_size, or let fewer trials run at once (resources.at_once)"
)
_MEMORY_SIGNS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad allocation",
)


@dataclass(frozen=True)
class Ended:
    """The record of a trial, `trial.json` in its folder."""

    name: str
    key: str
    """Digest of its recipe: a trial whose recipe changed is another one."""
    state: str = "new"
    """`new`, `running` (or died), `done`, `stopped` by ASHA, or `failed`."""
    starts: int = 0
    """How often it was begun."""
    seconds: float = 0.0
    """Of the last start."""
    changes: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    """Why it was stopped, or failed."""
    hint: str = ""

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do; a failed trial is tried again at the next start."""
        return self.state in {"done", "stopped"}


def folder_of(trial: Trial, out: Path) -> Path:
    """The run folder of a trial."""
    return out / "trials" / trial.name


def name_at_rungs(trial: Trial) -> str:
    """Of a trial's values: with another recipe it is another trial."""
    return f"{trial.name}-{trial.key[:8]}"


def ended(trial: Trial, out: Path) -> Ended:
    """How far a trial is, by what is in its folder."""
    folder = folder_of(trial, out)
    fresh = Ended(trial.name, trial.key, changes=trial.changes)
    try:
        found = Ended(**read_json(folder / "trial.json"))
        fields = asdict(found)
    except (TypeError, RecursionError):  # it is no mapping, or one of other fields, or far too deep
        return fresh
    if any(type(value) is not type(getattr(fresh, name)) for name, value in fields.items()):
        return fresh
    if found.key != trial.key or (found.state == "done" and not _measured(folder)):
        return fresh
    return found


def _measured(folder: Path) -> bool:
    """Whether the comparison of the sweep can read what a run left; run again, it writes that anew."""
    from ..report.run import read

    try:
        stages = read(folder).metrics.stages
    except (PintsizeError, OSError):
        return False
    return bool(stages) and stages[-1].val_accuracy is not None


def note(record: Ended, trial: Trial, out: Path, **changes: Any) -> Ended:
    """Write the record of a trial anew."""
    record = Ended(**{**asdict(record), **changes})
    write_text(folder_of(trial, out) / "trial.json", json.dumps(asdict(record), indent=1))
    return record


def run_trial(trial: Trial, out: Path, *, asha: AshaSection | None, progress: bool | None = False) -> Ended:
    """Run a trial to its end, unless it is over; what fails in it fails it alone.

    Raises:
        OperationError: its record cannot be written.
    """
    from ..run.compression import compress

    record = ended(trial, out)
    if record.over:
        return record
    folder = folder_of(trial, out)
    with one_process(folder, wait=_WAIT):
        pass
    record = note(record, trial, out, state="running", starts=record.starts + 1, reason="", hint="")
    logs.event(_logger, f"{trial.name}: started", trial=trial.name, event="started", starts=record.starts)
    began = time.perf_counter()
    try:
        compress(
            recipe=trial.recipe, out=folder, shared=out / "shared", progress=progress,
            on_epoch=None if asha is None else Asha(out / "rungs", name_at_rungs(trial), **asha.model_dump()),
        )  # fmt: skip
        how: dict[str, Any] = {"state": "done"}
    except Stopped as stop:
        how = {"state": "stopped", "reason": str(stop)}
    except Exception as error:
        how = {"state": "failed", **describe(error)}
    gc.collect()  # what a failed trial held must not be missing to the next one
    record = note(record, trial, out, **how, seconds=time.perf_counter() - began)
    logs.event(_logger, f"{trial.name}: {record.state}", trial=trial.name, event=record.state,
               seconds=record.seconds, reason=record.reason)  # fmt: skip
    return record


def describe(error: BaseException) -> dict[str, str]:
    """Reason and hint of a failure."""
    reason = str(error) if isinstance(error, PintsizeError) else f"{type(error).__name__}: {error}"
    return {"reason": logs.without_secrets(reason.strip()), "hint": MEMORY_HINT if _is_memory(error) else ""}


def _is_memory(error: BaseException | None) -> bool:
    """Whether it, or what caused it, is a lack of memory: torch says so in a RuntimeError."""
    while error is not None:
        text = f"{type(error).__name__} {error}".lower()
        if (
            isinstance(error, MemoryError)
            or "outofmemory" in text
            or any(sign in text for sign in _MEMORY_SIGNS)
        ):
            return True
        error = error.__cause__ or error.__context__
    return False
