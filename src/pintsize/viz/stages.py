"""Bars: the stages of a compression, the rounds of a pruning, filters per layer, runtimes side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..tables import judged
from ..units import bytes_text, count_text, milliseconds_text
from . import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Stage = Mapping[str, Any]
"""name, and any of accuracy (percent) or metric with metric_name and metric_unit, params, macs, bytes, latency
({"median_ms": …})."""

_QUANTITIES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("params", "parameters", count_text),
    ("macs", "MACs per image", count_text),
    ("bytes", "file size", bytes_text),
    ("latency", "latency, median", milliseconds_text),
)

_LONGEST_WHISKER = 1.6
"""Of the longest bar; one that is longer ends in an arrow."""


def stage_bars(stages: Sequence[Stage], *, title: str = "Stage by stage") -> Figure:
    """Accuracy, parameters, MACs, bytes and latency of each stage; a quantity that no stage has is left out.

    Args:
        stages: in order, as in `metrics.json`.
        title: of the figure.

    Raises:
        InputError: there is no stage with a quantity.
    """
    names = [str(stage["name"]) for stage in stages]
    panels = []
    scale = style.shared_scale(stage for stage in stages if judged(stage) is not None)
    for label, values, text in (
        (scale.label, [judged(stage) for stage in stages], scale.number),
        *((label, [_value(stage, key) for stage in stages], text) for key, label, text in _QUANTITIES),
    ):
        if any(value is not None for value in values):
            panels.append((label, values, text))
    if not panels:
        raise InputError(
            "stages",
            "none has anything measured",
            "pass stages with accuracy, params, macs …",
        )
    figure, grid = style.figure(len(panels), 1, height=0.55 + len(panels) * (0.42 + 0.24 * len(names)))
    for axes, (label, values, text) in zip(grid, panels, strict=True):
        _bars(axes, names, values, text)
        style.dress(axes, title=label, grid="", panel=True)
        _bare(axes)
    style.head(figure, title)
    told = "; ".join(f"{label} {_told(names, values, text)}" for label, values, text in panels)
    return style.describe(figure, f"{title}: {told}.")


def round_bars(rounds: Sequence[Stage], *, title: str = "Rounds of pruning") -> Figure:
    """Parameters, MACs, bytes and accuracy after each round; round 0 is the dense network.

    Args, errors: as for `stage_bars`; a round without a name is numbered.
    """
    return stage_bars([{"name": f"round {number}", **row} for number, row in enumerate(rounds)], title=title)


def filters_per_layer(
    filters: Mapping[str, Sequence[int]] | Mapping[str, int],
    *,
    labels: Sequence[str] = ("before", "after"),
    title: str = "Filters per layer",
) -> Figure:
    """Output channels of each layer, before and after, or round by round.

    Args:
        filters: layer → its number at each moment; a bare number is taken as the only moment.
        labels: of the moments.
        title: of the figure.

    Raises:
        InputError: a layer has another number of moments than there are labels.
    """
    counts = {name: [value] if isinstance(value, int) else list(value) for name, value in filters.items()}
    moments = len(next(iter(counts.values()), []))
    if not moments or moments > len(labels) or any(len(row) != moments for row in counts.values()):
        raise InputError(
            "filters",
            "the layers do not have as many numbers as there are labels",
            "pass {layer: [before, after]} and one label for each",
        )
    figure, (axes,) = style.figure(height=1.0 + 0.2 * len(counts))
    for moment in range(moments):
        values = [row[moment] for row in counts.values()]
        share = moment / max(moments - 1, 1)
        axes.barh(
            range(len(counts)),
            values,
            height=0.82 - 0.44 * share,  # later ones lie on top, and leave the earlier ones to be seen
            label=labels[moment],
            color=style.shade(share) if moments > 1 else style.BLUE,
        )
    style.dress(axes, title=title, x="filters", grid="x")
    style.names_axis(axes, counts)
    if moments > 1:
        figure.legend(
            loc="outside lower center",
            ncols=moments if sum(map(len, labels[:moments])) < 40 else 1,
            fontsize=8.5,
            frameon=False,
            labelcolor=style.INK,
        )
    first, last = (sum(row[i] for row in counts.values()) for i in (0, -1))
    return style.describe(
        figure, f"{title}: {first} {labels[0]}, {last} {labels[moments - 1]}, in {len(counts)} layers."
    )


def runtime_bars(results: Mapping[str, Mapping[str, Any]], *, title: str = "Runtimes side by side") -> Figure:
    """Latency (median, with p95 as a whisker) and size of files, across runtimes.

    Args:
        results: contender → median_ms, p95_ms and bytes (any may be missing).
        title: of the figure.

    Raises:
        InputError: there is nothing measured in them.
    """
    names = list(results)
    latencies = [results[name].get("median_ms") for name in names]
    sizes = [results[name].get("bytes") for name in names]
    panels = [
        p
        for p in (("latency, median and p95", latencies, milliseconds_text), ("file size", sizes, bytes_text))
        if any(value is not None for value in p[1])
    ]
    if not panels:
        raise InputError(
            "results", "there is nothing measured in them", "pass {name: {'median_ms': …, 'bytes': …}}"
        )
    figure, grid = style.figure(len(panels), 1, height=0.5 + len(panels) * (0.45 + 0.28 * len(names)))
    for axes, (label, values, text) in zip(grid, panels, strict=True):
        ends = [results[name].get("p95_ms") for name in names] if values is latencies else ()
        _bars(axes, names, values, text, ends)
        style.dress(axes, title=label, grid="", panel=True)
        _bare(axes)
    style.head(figure, title)
    told = [
        f"{name} {milliseconds_text(ms)}" for name, ms in zip(names, latencies, strict=True) if ms is not None
    ]
    return style.describe(figure, f"{title}: {', '.join(told) or ', '.join(names)}.")


def _value(stage: Stage, key: str) -> float | None:
    value = stage.get(key)
    return value.get("median_ms") if isinstance(value, Mapping) else value


def _told(names: Sequence[str], values: Sequence[float | None], text: Callable[[float], str]) -> str:
    pairs = zip(names, values, strict=True)
    return ", ".join(f"{name} {text(value)}" for name, value in pairs if value is not None)


def _bars(
    axes: Axes,
    names: Sequence[str],
    values: Sequence[float | None],
    text: Callable[[float], str],
    ends: Sequence[float | None] = (),
) -> None:
    """A bar a name with its number behind it; `ends` are where whiskers reach to."""
    shown = [value or 0 for value in values]
    most = _LONGEST_WHISKER * max(
        shown
    )  # one slow call in twenty must not make the bars too short to compare
    reach = [min(max(value, end or 0), most) for value, end in zip(shown, ends or shown, strict=True)]
    colors = [style.COLORS[number % len(style.COLORS)] for number in range(len(names))]
    axes.barh(range(len(names)), shown, color=colors, height=0.72)
    style.names_axis(axes, [name.replace(", ", "\n") for name in names])  # a file and its runtime
    axes.set_xlim(0, max(reach) * (1.65 if ends else 1.24) or 1)
    for row, value in enumerate(values):
        told = "not measured" if value is None else text(value)
        end = ends[row] if ends else None
        if value is not None and end is not None:
            axes.plot(
                [value, reach[row]], [row, row], color=style.INK, linewidth=1.2, marker="|", markersize=5
            )
            if end > reach[row]:
                axes.plot([reach[row]], [row], color=style.INK, marker=">", markersize=5)
            told += f", p95 {text(end)}"
        style.note(axes, told, (reach[row], row))


def _bare(axes: Axes) -> None:
    """Bars that carry their numbers need no scale."""
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
