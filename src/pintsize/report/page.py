"""The report of one run as one HTML file: no network, no outside file, readable without scripts."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..storage.atomic import write_text
from ..storage.steps import step_texts
from ..units import COST_TEXTS, bytes_text, count_text, milliseconds_text
from .display import ReportFile
from .figures import NAMES, draw
from .run import Run, Stage, read
from .summary import attention_text, going_on, summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATES = Path(__file__).parent / "templates"
_IMAGE_BUDGET = 1_500_000
"""Bytes of PNG files taken in; the page stays under 3 MB."""
_RECORD_BUDGET = 20_000


def write(run_dir: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> ReportFile:
    """Write the report of a run as one HTML file.

    Args:
        run_dir: the `out` folder of a run; whatever is missing in it is left out of the report.
        out: the file; `report.html` in the folder by default.

    Returns:
        The path of the report.

    Raises:
        InputError: there is no such folder, or nothing was measured there.
        CorruptFile: a file in it is damaged.
        OperationError: the report cannot be written; an older one is intact.
    """
    run = read(run_dir)
    path = ReportFile(run.path / "report.html" if out is None else out)
    write_text(path, render(run))
    return path


def render(run: Run, *, live: str = "") -> str:
    """The page as text; `live` names the state shown, and the page reloads itself when the server has another."""
    metrics = run.metrics
    return filled(
        "report.html.j2",
        run=run,
        metrics=metrics,
        summary=summarise(metrics),
        going_on=going_on(run.progress, metrics.scale) if run.progress and not metrics.stages else "",
        live=live,
        stage_rows=[_stage_row(stage, metrics.stages[0]) for stage in metrics.stages],
        figures=[inline(figure, name) for name, figure in draw(run).items()],
        images=_images(run),
        layers=layer_table(metrics.layers),
        steps=step_texts(run.record),
        record_text=_record_text(run.record),
        verification=_facts(
            metrics.verification.model_dump(exclude_none=True) if metrics.verification else {}
        ),
        budget=_facts(_budget(metrics.budget or {})),
        attention=attention_text(metrics.attention) if metrics.attention else "",
        machine=_facts(metrics.machine),
        setting=_facts(
            {
                "model": metrics.model,
                "data": metrics.data,
                "seed": metrics.seed,
                "pintsize": metrics.pintsize,
            }
        ),
        recipe=run.recipe or (json.dumps(metrics.recipe, indent=2) if metrics.recipe else ""),
    )


def filled(template: str, **values: Any) -> str:
    """A template of this package with `values`, escaped, and the time at which it was `made`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=count_text, bytes=bytes_text, ms=milliseconds_text)
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return environment.get_template(template).render(made=made, **values)


def inline(figure: Figure, key: str) -> dict[str, str]:
    """A figure as markup for the templates; `key` is unique in the page."""
    from markupsafe import Markup

    from ..viz import style

    return {"key": key, "svg": Markup(style.to_svg(figure, key=key))}  # noqa: S704 (matplotlib escaped it)


def _stage_row(stage: Stage, first: Stage) -> dict[str, Any]:
    """A stage with the width of its bars, relative to the first stage."""
    latency = stage.latency
    setting = [str(part) for part in (latency.backend,) if part] if latency else []
    if latency and latency.threads:
        setting.append(f"{latency.threads} threads")
    if latency and latency.batch:
        setting.append(f"batch {latency.batch}")
    return {
        "stage": stage,
        "setting": ", ".join(setting),
        "share": {
            key: _share(getattr(stage, key), getattr(first, key))
            for key in ("params", "macs", "bytes", "median_ms")
        },
    }


def _share(value: float | None, whole: float | None) -> int | None:
    return min(100, round(100 * value / whole)) if value is not None and whole else None


def _images(run: Run) -> list[dict[str, str]]:
    """PNG files in figures/ that are not drawn here, as data URIs, as long as they fit."""
    room, found = _IMAGE_BUDGET, []
    for file in sorted((run.path / "figures").glob("*.png")):
        size = file.stat().st_size
        if file.stem in NAMES or size > room:
            continue
        room -= size
        data = base64.b64encode(file.read_bytes()).decode()
        found.append(
            {"name": file.stem.replace("_", " ").replace("-", " "), "uri": f"data:image/png;base64,{data}"}
        )
    return found


_KNOWN_COLUMNS = {
    "name": "layer",
    "type": "type",
    "shape": "weights",
    "params": "parameters",
    "macs": "MACs",
    "bits": "bits",
    "channels": "channels",
    "dense_channels": "of",
    "kept": "kept",
    "bytes": "bytes",
    "density": "density",
    "sqnr_db": "SQNR (dB)",
}


def layer_table(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Headings and cells (text, sort key) of the per-layer table; columns nobody fills are left out."""
    layers = [
        row for row in layers if row.get("params") != 0 or row.get("macs") != 0
    ]  # a ReLU holds and costs nothing
    keys = [
        key
        for key in dict.fromkeys([*_KNOWN_COLUMNS, *(key for row in layers for key in row)])
        if any(row.get(key) is not None for row in layers)
    ]
    if not keys:
        return None
    numeric = {key for key in keys if all(isinstance(row.get(key), int | float | None) for row in layers)}
    return {
        "headings": [
            {"text": _KNOWN_COLUMNS.get(key, key.replace("_", " ")), "numeric": key in numeric}
            for key in keys
        ],
        "rows": [[_cell(key, row.get(key), key in numeric) for key in keys] for row in layers],
    }


def _cell(key: str, value: Any, numeric: bool) -> dict[str, Any]:
    if value is None:
        text = "–"
    elif isinstance(value, list | tuple):
        text = "×".join(map(str, value))
    elif key == "bytes":
        text = bytes_text(value)
    elif key in {"kept", "density"} and isinstance(value, float) and 0 <= value <= 1:
        text = f"{100 * value:.1f} %"
    elif numeric and key not in {"bits"}:
        text = count_text(value)
    else:
        text = str(value)
    return {"text": text, "key": value if numeric and value is not None else text, "numeric": numeric}


def _budget(found: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked of a search and what it chose; costs in their unit."""
    facts = {key: value for key, value in found.items() if key != "met"}
    in_words = COST_TEXTS.get(str(found.get("minimize")))
    for key in ("limit", "least"):
        if in_words is not None and isinstance(found.get(key), int | float):
            facts[key] = in_words(found[key])
    return facts


def _facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Keys and values as words; long lists are left to the JSON file."""
    return [
        (key.removesuffix("_bytes").replace("_", " "), _words(key, value))
        for key, value in values.items()
        if value not in (None, {}, [])
    ]


def _words(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            f"{name.removesuffix('_ms')} {_words(str(name), part)}"
            for name, part in value.items()
            if part not in ({}, [], None) and not (isinstance(part, list | tuple) and len(part) > 12)
        )
    if isinstance(value, list | tuple):
        return ", ".join(_words(key, part) for part in value[:12]) + (" …" if len(value) > 12 else "")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if key.endswith("bytes"):
            return bytes_text(value)
        if key.endswith("_ms"):
            return milliseconds_text(value)
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        return f"{text} %" if key in _PERCENT else text
    return str(value)


_PERCENT = {"accuracy", "val_accuracy", "model_accuracy", "agreement", "agreement_at_least"}


def _record_text(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return ""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    return text if len(text) <= _RECORD_BUDGET else text[:_RECORD_BUDGET] + "\n… (the rest is in record.json)"
