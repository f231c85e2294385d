"""`sweep`: many runs that differ in some fields of their recipe, on one machine or on many."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError, MissingExtra, unknown
from ..storage import logs
from ..storage.atomic import remove_partial, write_text
from ..storage.digests import digest
from ..storage.locks import one_process
from ..storage.markers import refuse_links
from ..tables import Table, Tabular, judged
from ..units import Scale, bytes_text, milliseconds_text
from .asha import forget_others
from .sweep_file import SweepFile, Trial, read_sweep, trials
from .trial import Ended, ended, name_at_rungs, run_trial

_logger = logging.getLogger(__name__)

_LOGGED = ("sweep", "trial", "on_ray")
"""Parts whose events are the sweep's; those of a trial's own search are in its folder."""
ENGINES = ("auto", "ray", "serial")
COSTS = ("bytes", "latency_ms", "macs", "params")


@dataclass(frozen=True)
class SweepResult(Tabular):
    """What `sweep` found."""

    folder: Path
    trials: tuple[Ended, ...]
    """All of them, in the order of the file."""
    points: dict[str, dict[str, Any]] = field(repr=False)
    """Of each trial that is done: accuracy (percent, test; of another task its metric, which it names), val_accuracy, bytes,
    latency_ms, macs, params."""
    report: Path | None
    """The comparison of the trials that are done, if there are two or more."""

    def front(self, cost: str = "bytes") -> list[str]:
        """Names of the trials that no other beats in a cost and on validation, the cheapest first.

        Trials that are judged by several metrics do not compare: the front of each metric follows that of the one before.
        """
        from ..viz.frontier import pareto_front

        if cost not in COSTS:
            raise unknown("cost", cost, COSTS)
        having: dict[Scale, list[str]] = {}
        for name, point in self.points.items():
            if point[cost] is not None and point["val_accuracy"] is not None:
                having.setdefault(Scale.of(point), []).append(name)
        found = []
        for scale, names in having.items():
            pairs = [
                (float(self.points[name][cost]), scale.merit(self.points[name]["val_accuracy"]))
                for name in names
            ]
            found += [names[index] for index in pareto_front(pairs)]
        return found

    def __rich__(self) -> Table:
        front = set(self.front())
        rows = []
        for trial in self.trials:
            point = self.points.get(trial.name, {})
            scale = Scale.of(point)
            rows.append((
                trial.name, trial.state, "front" if trial.name in front else "",
                *(scale.told(point[key]) if point.get(key) is not None else "–" for key in ("val_accuracy", "accuracy")),
                bytes_text(point["bytes"]) if point.get("bytes") else "–",
                milliseconds_text(point["latency_ms"]) if point.get("latency_ms") else "–",
            ))  # fmt: skip
        return Table(("trial", "state", "of bytes", "validation", "test", "file", "latency"), rows, words=3)


def sweep(
    file: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] = "runs/sweep",
    model: str | None = None,
    data: str | None = None,
    engine: str = "auto",
    address: str | None = None,
    progress: bool | None = None,
    **options: Any,
) -> SweepResult:
    """Run every trial of a sweep file, each in a run folder of its own, and compare them.

    Trials that have stages in common, such as the training of the same dense network, do them once. Started
    again in the same folder, a sweep repeats nothing that is over, goes on where trials were killed, and
    tries failed ones again, last.

    Args:
        file: see `docs/guides/sweeps.md`.
        out: folder of the sweep; on a cluster, on storage that all machines share under this path.
        model: overrules the recipe's name.
        data: overrules the recipe's name.
        engine: "ray", "serial" (in this process), or "auto": Ray where it is installed.
        address: of a Ray cluster; by default Ray starts on this machine alone.
        progress: as for `compress`, for `serial`; on Ray nothing is shown but the log (`-v`).
        options: single fields of the recipe, overruling it in all trials.

    Raises:
        InputError: a bad file, option or recipe of a trial, or a link that leads out of the folder; nothing has run then.
        MissingExtra: Ray is asked for and not installed.
        OperationError: another process uses the folder, or it cannot be written.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    content = read_sweep(file)
    names = {f"{key}.name": value for key, value in (("model", model), ("data", data)) if value is not None}
    found = trials(content, folder=Path(file).parent, names=names, options=options)
    on_ray = _on_ray(engine, address)
    out = Path(out).resolve()
    with one_process(out):
        if (out / "plan.json").is_file():  # it is a sweep's folder
            shutil.rmtree(out / "ray", ignore_errors=True)  # of drivers that were killed
        refuse_links(out)
        for within in (".", "shared/*", "rungs/*"):  # trials see to their own folders
            remove_partial(out, within)
        forget_others(out / "rungs", {name_at_rungs(trial) for trial in found})
        with logs.to_file(out / "log.txt", only=[f"pintsize.search.{part}" for part in _LOGGED]):
            return _run(found, content, out, on_ray=on_ray, address=address, progress=progress)


def _run(
    found: Sequence[Trial],
    content: SweepFile,
    out: Path,
    *,
    on_ray: bool,
    address: str | None,
    progress: bool | None,
) -> SweepResult:
    """All trials that are not over, and the comparison."""
    _write_plan(out, content, found)
    pending = [trial for trial in found if not ended(trial, out).over]
    pending = _in_order(pending, out)
    logs.event(_logger, f"{len(found)} trials, {len(found) - len(pending)} of them over", event="begin",
               engine="ray" if on_ray else "serial")  # fmt: skip
    if on_ray and pending:
        from .on_ray import run_on_ray

        run_on_ray(pending, out, content, address=address)
    elif pending:
        for trial in pending:
            run_trial(trial, out, asha=content.asha, progress=progress)
    result = _compare(found, out)
    logs.event(_logger, "ended", event="ended", done=len(result.points))
    return result


def _in_order(pending: Sequence[Trial], out: Path) -> list[Trial]:
    """What died or failed before goes last, so that it cannot keep the others from their end.

    Trials that share their trainings are set apart: side by side, one would wait for the other.
    """
    alike: Counter[str] = Counter()
    order = {}
    for trial in pending:
        trained = digest(trial.recipe.model_dump(mode="json", exclude={"quantize", "export"}))
        order[trial.name] = (ended(trial, out).starts, alike[trained])
        alike[trained] += 1
    return sorted(pending, key=lambda trial: order[trial.name])


def _on_ray(engine: str, address: str | None) -> bool:
    """Whether Ray runs the trials."""
    if engine == "serial":
        if address is not None:
            raise InputError(
                f"address={address!r}", "serial trials run in this process", "leave out one of them"
            )
        return False
    installed = importlib.util.find_spec("ray") is not None
    if not installed and (engine == "ray" or address is not None):
        raise MissingExtra("a sweep on Ray", "ray")
    return installed


def _write_plan(out: Path, content: SweepFile, found: Sequence[Trial]) -> None:
    """What is to be done, for people and for workers on other machines, who look for it."""
    plan = {"format": 1, "sweep": content.model_dump(mode="json"),
            "trials": {trial.name: trial.changes for trial in found}}  # fmt: skip
    write_text(out / "plan.json", json.dumps(plan, indent=1))


def _compare(found: Sequence[Trial], out: Path) -> SweepResult:
    """The results by what is in the folders, and the reports on them."""
    from ..report import compare

    records = tuple(ended(trial, out) for trial in found)
    folders = {record.name: out / "trials" / record.name for record in records if record.state == "done"}
    points = {name: _point(folder) for name, folder in folders.items()}
    report = compare(list(folders.values()), out / "comparison.html") if len(folders) > 1 else None
    result = SweepResult(out, records, points, report)
    if points:
        _draw(list(points.values()), out)
    document = {"format": 1, "trials": [asdict(record) for record in records], "points": points,
                "front": {cost: result.front(cost) for cost in COSTS}}  # fmt: skip
    write_text(out / "sweep.json", json.dumps(document, indent=1))
    return result


def _draw(points: Sequence[Mapping[str, Any]], out: Path) -> None:
    """`frontier.png`, and where trials are judged by several metrics, one more for each."""
    from ..viz import to_png
    from ..viz.frontier import bits_frontier

    everything: dict[Scale, dict[str, list[Mapping[str, Any]]]] = {}
    for point in points:
        if point["accuracy"] is not None:
            series = everything.setdefault(Scale.of(point), {})
            series.setdefault(point["bits"], []).append({**point, "name": ""})
    for number, series in enumerate(everything.values(), 1):
        to_png(bits_frontier(series), out / ("frontier.png" if number == 1 else f"frontier-{number}.png"))


def _point(folder: Path) -> dict[str, Any]:
    """The final network of a run."""
    from ..report.compare import points

    (point,) = points([folder])
    last = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["stages"][-1]
    return {**point, "val_accuracy": judged(last, "val_")}
