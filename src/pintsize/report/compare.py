"""Several runs in one HTML file: who lost what, what each gained, and what their recipes do differently."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..storage.atomic import write_text
from ..units import Scale, bytes_text, milliseconds_text
from .display import ReportFile
from .page import filled
from .run import Metrics, Run, Stage, read
from .summary import summarise

_COSTS = ("bytes", "latency_ms", "macs")
_MOST_DIFFERENCES = 8


def compare(
    run_dirs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str] = "comparison.html"
) -> ReportFile:
    """Write one page that compares runs: a table, Pareto plots, and the recipe of each point.

    Args:
        run_dirs: two run folders or more.
        out: the page to write.

    Returns:
        Its path.

    Raises:
        InputError: fewer than two folders, one given twice, or one without a run.
        CorruptFile: a file of a run is damaged.
        OperationError: `out` cannot be written; an older one is intact.
    """
    folders = [Path(folder).resolve() for folder in run_dirs]
    if len(set(folders)) != len(folders) or len(folders) < 2:
        raise InputError(
            "the runs to compare",
            f"{len(folders)} were given, {len(set(folders))} of them different",
            "give two different run folders or more",
        )
    path = ReportFile(out)
    runs = [read(folder) for folder in folders]
    names = _names(folders)
    differences = _differences([run.metrics.recipe for run in runs])
    entries = [
        _entry(number, name, run, differences, path)
        for number, (name, run) in enumerate(zip(names, runs, strict=True))
    ]
    write_text(
        path,
        filled(
            "compare.html.j2",
            entries=entries,
            scales=_scales(entries),
            differences=differences,
            plots=_plots(entries),
            sentence=_sentence(entries),
            warning=_machines(runs),
            live="",
        ),
    )
    return path


def points(run_dirs: Sequence[str | os.PathLike[str]], *, all_stages: bool = False) -> list[dict[str, Any]]:
    """Runs as the points of `viz.accuracy_compression` and `viz.bits_frontier`.

    Args:
        run_dirs: run folders.
        all_stages: each stage is a point, not only the final network of each run.

    Returns:
        Dictionaries with name, accuracy (of other tasks than classification their metric, with metric_name, metric_unit and
        higher_is_better), bytes, latency_ms, macs, params, and bits ("W8A8", "fp32").

    Raises:
        InputError, CorruptFile: as for `compare`.
    """
    folders = [Path(folder).resolve() for folder in run_dirs]
    runs = [read(folder) for folder in folders]
    return [
        {
            "name": (stage.name if len(runs) == 1 else f"{name} {stage.name}") if all_stages else name,
            "bits": _bits(run),
            **{key: getattr(stage, key) for key in ("accuracy", "bytes", "macs", "params")},
            "latency_ms": stage.median_ms,
            **run.metrics.scale.named(),
        }
        for name, run in zip(_names(folders), runs, strict=True)
        for stage in run.metrics.stages[0 if all_stages else -1 :]
    ]


def _bits(run: Run) -> str:
    """Widths of weights and activations of a run's final network, as its recipe says."""
    attention, quantize = run.metrics.recipe.get("attention"), run.metrics.recipe.get("quantize")
    section = attention if isinstance(attention, Mapping) and attention.get("weights") else quantize
    if not isinstance(section, Mapping):
        return "fp32"
    widths = [
        "mixed" if isinstance(bits := section.get(name) or 32, Mapping) else bits
        for name in ("weights", "activations")
    ]
    return f"W{widths[0]}A{widths[1]}"


def _entry(number: int, name: str, run: Run, differences: Sequence[str], out: Path) -> dict[str, Any]:
    """A run as the template shows it: its last stage against the dense network."""
    stages = run.metrics.stages
    last = stages[-1] if stages else Stage(name="nothing measured")
    fields = flatten(run.metrics.recipe)
    own = run.path / "report.html"
    return {
        "number": number,
        "id": f"run-{number}",
        "name": name,
        "title": run.title,
        "stage": last,
        "drop": _rounded(run.metrics),
        "summary": summarise(run.metrics),
        "differs": [_text(fields.get(key)) for key in differences],
        "brief": _brief(fields, differences),
        "recipe": run.recipe or json.dumps(run.metrics.recipe, indent=1),
        "link": os.path.relpath(own, out.resolve().parent) if own.is_file() else None,
        "accuracy": last.accuracy,
        "scale": run.metrics.scale,
        **run.metrics.scale.named(),
        "bytes": last.bytes,
        "macs": last.macs,
        "latency_ms": last.median_ms,
    }


def _rounded(metrics: Metrics) -> float | None:
    """The drop as the table shows it; 0 for −0."""
    return None if metrics.drop is None else float(metrics.scale.number(metrics.drop)) + 0.0


def _scales(entries: Sequence[Mapping[str, Any]]) -> list[Scale]:
    """What the runs are judged by; each has its own columns, plots and best run, for they do not compare."""
    return list(dict.fromkeys(entry["scale"] for entry in entries))


def _plots(entries: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Each metric against each cost that two runs or more have; the points are links to their runs."""
    from markupsafe import Markup

    from ..viz import style
    from ..viz.frontier import accuracy_compression

    found = []
    for (number, scale), cost in itertools.product(enumerate(_scales(entries)), _COSTS):
        alike = [entry for entry in entries if entry["scale"] == scale]
        if sum(entry[cost] is not None and entry["accuracy"] is not None for entry in alike) > 1:
            figure = accuracy_compression(alike, cost=cost, urls=[f"#{entry['id']}" for entry in alike])
            svg = style.to_svg(figure, key=f"{cost}-{number}" if number else cost).replace(
                'role="img"', 'role="group"', 1
            )
            found.append(Markup(_named_links(svg, entries)))  # noqa: S704 (matplotlib escaped it)
    return found


def _named_links(svg: str, entries: Sequence[Mapping[str, Any]]) -> str:
    """Give each linked point a name that a screen reader can say."""

    def link(match: re.Match[str]) -> str:
        entry = entries[int(match[1])]
        return f'<a href="#{entry["id"]}" data-run="{match[1]}" aria-label="{escape(point_text(entry), quote=True)}">'

    return re.sub(r'<a xlink:href="#run-(\d+)"[^>]*>', link, svg)


def point_text(entry: Mapping[str, Any]) -> str:
    """A run in one line: name, accuracy and costs."""
    told = [entry["scale"].told(entry["accuracy"])] if entry["accuracy"] is not None else []
    told += [bytes_text(entry["bytes"])] if entry["bytes"] is not None else []
    told += [milliseconds_text(entry["latency_ms"])] if entry["latency_ms"] is not None else []
    return f"{entry['name']}: {', '.join(told) or 'nothing measured'}"


def _sentence(entries: Sequence[Mapping[str, Any]]) -> str:
    said = []
    for scale in _scales(entries):
        having = [entry for entry in entries if entry["scale"] == scale and entry["accuracy"] is not None]
        if having:
            best = max(having, key=lambda entry: scale.merit(entry["accuracy"]))
            label = "most accurate" if scale.is_accuracy else f"best by {scale.metric}"
            said.append(f"{label} is {point_text(best)}")
    for key, label in (("bytes", "smallest"), ("latency_ms", "fastest")):
        having = [entry for entry in entries if entry[key] is not None]
        if having:
            said.append(f"{label} is {point_text(min(having, key=lambda entry: entry[key]))}")
    return f"{len(entries)} runs; {'; '.join(said) or 'nothing was measured in them'}."


def _machines(runs: Sequence[Run]) -> str:
    """A sentence if the latencies were not measured alike."""

    def setting(run: Run) -> tuple[Any, ...]:
        last = run.metrics.stages[-1].latency if run.metrics.stages else None
        facts = (last.threads, last.batch) if last else ()
        return (run.metrics.machine.get("cpu"), run.metrics.machine.get("cores"), *facts)

    measured = {setting(run) for run in runs if run.metrics.stages and run.metrics.stages[-1].median_ms}
    if len(measured) < 2:
        return ""
    told = "; ".join(
        ", ".join(str(part) for part in one if part is not None) for one in sorted(measured, key=str)
    )
    return f"The latencies were not measured alike and must not be compared: {told}."


def _differences(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Recipe fields, dotted, in which the runs differ."""
    flat = [flatten(recipe) for recipe in recipes]
    keys = dict.fromkeys(key for fields in flat for key in fields)
    return [key for key in keys if len({_text(fields.get(key)) for fields in flat}) > 1][:_MOST_DIFFERENCES]


def flatten(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by dotted name."""
    found: dict[str, Any] = {}
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            found.update(flatten(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def _brief(fields: Mapping[str, Any], differences: Sequence[str]) -> str:
    """What the runs differ in, and what else is not as it is by default, a line a field."""
    usual = _defaults()
    chosen = [
        key
        for key, value in fields.items()
        if key not in differences and value not in (None, [], {}) and value != usual.get(key)
    ]
    return "\n".join(f"{key}: {_text(fields.get(key))}" for key in (*differences, *chosen))


def _defaults() -> dict[str, Any]:
    from ..recipe.recipe import Recipe

    parsed = Recipe.parse({"prune": {"ratio": 0.5}, "recover": {}}, source="defaults")
    return {
        key: value for key, value in flatten(parsed.model_dump(mode="json")).items() if key != "prune.ratio"
    }


def _text(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)


def _names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as it takes to tell them apart."""
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]
