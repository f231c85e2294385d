"""A run folder, read: `metrics.json` checked against its schema, and what else there is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import CorruptFile, InputError
from ..tables import judged
from ..units import Scale
from . import live
from .live import Progress

FORMAT = 1
LONGER = "dense fp32, trained on"
"""The dense network that was trained for as many epochs as the pruned one: what rounds and rules are held against."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=True)


class StageLatency(_Part):
    """How long one call of a stage's file takes."""

    median_ms: float | None = None
    p95_ms: float | None = None
    backend: str | None = None
    threads: int | None = None
    batch: int | None = None


def _as_accuracies(row: Any) -> Any:
    if not isinstance(row, Mapping):
        return row
    return {**row, "accuracy": judged(row), "val_accuracy": judged(row, "val_")}


class Judged(_Part):
    """What the figures of a run mean."""

    name: str = "classification"
    metric: str = "accuracy"
    unit: str = "%"
    higher_is_better: bool = True

    @property
    def scale(self) -> Scale:
        """How they are told, drawn and ranked."""
        return Scale(self.metric, self.unit, self.higher_is_better)


class Stage(_Part):
    """One stage of a run; what was not measured is None."""

    name: str
    accuracy: float | None = None
    val_accuracy: float | None = None
    params: int | None = None
    macs: int | None = None
    file: str | None = None
    bytes: int | None = None
    latency: StageLatency | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_any_task(cls, row: Any) -> Any:
        """Tasks other than classification write `metric` and `val_metric`."""
        return _as_accuracies(row)

    @property
    def median_ms(self) -> float | None:
        """Median latency in milliseconds."""
        return self.latency.median_ms if self.latency else None


class StagedRound(_Part):
    """A network between two cuts, of rounds or of a rule file."""

    name: str
    val_accuracy: float
    accuracy: float | None = None
    params: int
    macs: int
    bytes: int | None = None
    latency_ms: float | None = None
    filters: dict[str, int]
    """Of each layer."""

    @model_validator(mode="before")
    @classmethod
    def _of_any_task(cls, row: Any) -> Any:
        """As in `Stage`."""
        return _as_accuracies(row)


class Verification(_Part):
    """The exported file held against the model it was exported from."""

    ok: bool | None = None
    agreement: float | None = None
    max_logit_error: float | None = None
    mean_logit_error: float | None = None
    accuracy: float | None = None
    model_accuracy: float | None = None


class AttentionOutcome(_Part):
    """What pruning by attention left, against what was asked for."""

    left: float
    """Fraction of the parameters."""
    target: float | None = None
    met: bool | None = None
    """None without a target."""
    reason: str = ""
    """Why the training ended."""
    remedy: str | None = None
    """For a target that was missed."""


class Metrics(_Part):
    """`metrics.json`: every part may be missing."""

    format: int
    pintsize: str | None = None
    machine: dict[str, Any] = Field(default_factory=dict)
    model: dict[str, Any] | None = None
    task: Judged = Field(default_factory=Judged)
    data: dict[str, Any] | None = None
    seed: int | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    stages: list[Stage] = Field(default_factory=list)
    verification: Verification | None = None
    histories: dict[str, list[dict[str, Any]]] = Field(default_factory=dict)
    layers: list[dict[str, Any]] = Field(default_factory=list)
    rounds: list[StagedRound] = Field(default_factory=list)
    budget: dict[str, Any] | None = None
    attention: AttentionOutcome | None = None

    @property
    def scale(self) -> Scale:
        """What its figures are."""
        return self.task.scale

    @property
    def baseline(self) -> Stage | None:
        """What the last stage is held against: the dense network, trained as long as that where the run has one."""
        before = self.stages[:-1]
        return next((stage for stage in before if stage.name == LONGER), before[0] if before else None)

    @property
    def drop(self) -> float | None:
        """By how much the last stage is worse than the baseline; None if one was not measured."""
        if self.baseline is None or self.baseline.accuracy is None or self.stages[-1].accuracy is None:
            return None
        return self.scale.worse(self.baseline.accuracy, self.stages[-1].accuracy)


@dataclass(frozen=True)
class Run:
    """What a run folder holds."""

    path: Path
    metrics: Metrics
    record: Mapping[str, Any] | None
    recipe: str | None
    """Text of recipe.yaml."""
    log: str
    """The end of log.txt."""
    progress: tuple[Progress, ...] = ()
    """The stages that have begun, of a run that goes on."""

    @property
    def title(self) -> str:
        """Model and data, or the folder's name."""
        names = [(part or {}).get("name") for part in (self.metrics.model, self.metrics.data)]
        return " on ".join(str(name) for name in names if name) or self.path.name


def read(run_dir: str | os.PathLike[str], *, unfinished: bool = False) -> Run:
    """Read a run folder.

    Args:
        run_dir: the folder.
        unfinished: of a run that goes on, take what is known so far; else only what it measured at its end.

    Raises:
        InputError: there is no such folder, or it holds no run.
        CorruptFile: metrics.json or record.json is damaged or of another format.
    """
    path = Path(run_dir)
    if not path.is_dir():
        raise InputError(str(path), "there is no such run folder", "pass the --out folder of a pintsize run")
    file = path / "metrics.json"
    progress: list[Progress] = []
    if unfinished and live.goes_on(path):
        document, progress = live.unfinished(path)
        metrics = _checked(document, path)
    elif file.is_file():
        metrics = _metrics(file)
    else:
        raise InputError(
            str(path),
            "it holds no metrics.json, so nothing was measured there yet",
            "pass the --out folder of a pintsize run, or wait for its first stage to end",
        )
    record, recipe, log = path / "record.json", path / "recipe.yaml", path / "log.txt"
    return Run(
        path.resolve(),
        metrics,
        _object(record) if record.is_file() else None,
        recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else None,
        _tail(log),
        tuple(progress),
    )


def _metrics(file: Path) -> Metrics:
    document = _object(file)
    found = document.get("format")
    if found != FORMAT:
        raise CorruptFile(
            str(file),
            f"its format is {found!r}, this version reads {FORMAT}",
            "read it with the pintsize version that wrote it",
        )
    return _checked(document, file)


def _checked(document: dict[str, Any], source: Path) -> Metrics:
    try:
        return Metrics.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CorruptFile(
            str(source),
            f"its entry {where} is wrong ({first['msg']})",
            "run the last stage again, or restore the file from a copy",
        ) from error


def _object(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptFile(
            str(file),
            f"it is not JSON ({error})",
            "run the last stage again, or restore the file from a copy",
        ) from error
    if not isinstance(document, dict):
        raise CorruptFile(str(file), "it does not hold an object", "restore the file from a copy")
    return document


def _tail(file: Path, lines: int = 40) -> str:
    """The last lines of a log, however long it is."""
    if not file.is_file():
        return ""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 200 * lines))
        return "\n".join(stream.read().decode("utf-8", "replace").splitlines()[-lines:])
