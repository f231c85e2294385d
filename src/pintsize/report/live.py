"""What is known of a run that goes on: its log, the markers of the stages that are done, its TensorBoard events."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..tables import judged
from ..units import Scale

_START = re.compile(r" event=begin( |$)")
_EVENT = re.compile(r" stage=(\w[\w-]*) event=(started|reused|done)\b")
_EVENTS = "tensorboard/*/events.*"


@dataclass(frozen=True)
class Progress:
    """A stage of a run that has begun."""

    name: str
    done: bool
    seconds: float | None
    """It took; None while it goes on."""
    val_accuracy: float | None
    """Percent, or another metric, after it; while a training goes on, after its last epoch."""
    epochs: int
    """That have ended in it."""


def goes_on(run: Path) -> bool:
    """Whether the run was started and has not measured its networks since."""
    metrics, recipe = run / "metrics.json", run / "recipe.yaml"  # written at its end, and at each start
    if not metrics.is_file():
        return True
    return recipe.is_file() and metrics.stat().st_mtime_ns < recipe.stat().st_mtime_ns


def files(run: Path) -> list[Path]:
    """Those that change while it goes on."""
    return [*sorted(run.glob("stages/*.json")), *sorted(run.glob(_EVENTS))]


def unfinished(run: Path) -> tuple[dict[str, Any], list[Progress]]:
    """As much of `metrics.json` as is known, and the stages that have begun."""
    results = {name: _marker(run, name) if done else {} for name, done in _begun(run).items()}
    histories: dict[str, list[dict[str, Any]]] = {}
    progress = []
    for name, done in _begun(run).items():
        result = results[name].get("result", {})
        history = result.get("history") or ([] if done else _events(run / "tensorboard" / name))
        if history:
            histories[name] = history
        accuracy = judged(result, "val_")
        accuracy = judged(history[-1], "val_") if accuracy is None and history else accuracy
        progress.append(Progress(name, done, results[name].get("seconds"), accuracy, len(history)))
    measured = results.get("measure", {}).get("result", {})
    found = {
        "format": 1,
        "recipe": _recipe(run),
        "histories": histories,
        "stages": measured.get("stages", []),
        "layers": measured.get("layers", []),
        "rounds": [row for marker in results.values() for row in marker.get("result", {}).get("rounds", ())],
        "verification": results.get("verify", {}).get("result", {}).get("verification"),
    }
    scale = Scale.among([*(row for history in histories.values() for row in history), *found["stages"]])
    model, data = (found["recipe"].get(key) for key in ("model", "data"))
    task = {"metric": scale.metric, "unit": scale.unit, "higher_is_better": scale.higher_is_better}
    return {**found, "model": model, "data": data, "task": task}, progress


def _begun(run: Path) -> dict[str, bool]:
    """Stages that the last start has come to, and whether they are done."""
    log = run / "log.txt"
    begun: dict[str, bool] = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else ():
        if _START.search(line):
            begun = {}
        elif event := _EVENT.search(line):
            begun[event[1]] = event[2] != "started"
    return begun


def _marker(run: Path, name: str) -> dict[str, Any]:
    """What a stage left; nothing if it is being replaced at this moment."""
    try:
        document = json.loads((run / "stages" / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _recipe(run: Path) -> dict[str, Any]:
    import yaml

    file = run / "recipe.yaml"
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return document if isinstance(document, dict) else {}


def _events(folder: Path) -> list[dict[str, Any]]:
    """The epochs of a training that goes on, from its TensorBoard events."""
    if not any(folder.glob("events.*")):
        return []
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from ..training.logbook import TAGS

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    names = {tag: key for key, tag in TAGS.items()}
    epochs: dict[int, dict[str, Any]] = {}
    for tag in accumulator.Tags()["scalars"]:
        for event in accumulator.Scalars(tag):
            epochs.setdefault(event.step, {"epoch": event.step})[names.get(tag, tag)] = event.value
    return [epochs[step] for step in sorted(epochs)]
