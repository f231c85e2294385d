"""Pictures of what accuracy costs: compression against accuracy, with the front of those nobody beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..units import bytes_text, count_text, milliseconds_text
from . import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = Mapping[str, Any]
"""name, accuracy (percent; or another metric, with metric_name, metric_unit and higher_is_better), and the cost: bytes,
latency_ms, macs, params, or any other number."""

COSTS = {
    "bytes": ("file size", bytes_text),
    "latency_ms": ("latency, median (ms)", milliseconds_text),
    "macs": ("MACs per image", count_text),
    "params": ("parameters", count_text),
}

_ALL_NAMED = 6
"""Up to so many points, those behind the front are named, too."""
_PLACES = ((5, -8, "left"), (-5, 8, "right"), (5, 8, "left"), (-5, -8, "right"))
"""Of a name: points to the right and up, and its side that is there; the first two stay clear of the front's line."""


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, gain) that no other beats, by rising cost.

    One point beats another if it costs no more and gains no less, and they are not equal.
    """
    front: list[int] = []
    best = float("-inf")
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > best or (front and points[index] == points[front[-1]]):
            best = max(best, points[index][1])
            front.append(index)
    return front


def accuracy_compression(
    points: Sequence[Point], *, cost: str = "bytes", title: str = "", urls: Sequence[str] | None = None
) -> Figure:
    """Accuracy against a cost, with the Pareto front drawn through the networks that no other beats.

    Those on the front are named, of few points the others too, where the names meet no other.

    Args:
        points: one a network.
        cost: the key of the horizontal axis; logarithmic if the costs span more than a factor of 8.
        title: of the figure.
        urls: what each point links to in an SVG.

    Raises:
        InputError: no point has both, or they are judged by several metrics.
    """
    chosen = [
        (i, p) for i, p in enumerate(points) if p.get(cost) is not None and p.get("accuracy") is not None
    ]
    if not chosen:
        raise InputError(
            "points", f"none has an accuracy and {cost!r}", f"pass points with 'accuracy' and {cost!r}"
        )
    pairs = [(float(p[cost]), float(p["accuracy"])) for _, p in chosen]
    scale = style.shared_scale(p for _, p in chosen)
    front = pareto_front([(x, scale.merit(y)) for x, y in pairs])
    figure, (axes,) = style.figure(height=3.8)
    _front_line(axes, [pairs[i] for i in front])
    for number, (x, y) in enumerate(pairs):
        on = number in front
        dot = axes.scatter(
            [x],
            [y],
            s=52,
            color=style.BLUE if on else "none",
            edgecolors=style.BLUE,
            linewidths=1.4,
            marker="o" if on else "s",
            zorder=3,
        )
        if urls is not None:
            dot.set_urls([urls[chosen[number][0]]])
    _cost_axis(axes, cost, [x for x, _ in pairs])
    label = COSTS[cost][0] if cost in COSTS else cost
    style.dress(
        axes,
        title=title or f"{scale.metric[0].upper()}{scale.metric[1:]} against {label.split(' (')[0]}",
        x=label,
        y=scale.label,
        grid="both",
    )
    others = [i for i in range(len(pairs)) if i not in front] if len(pairs) <= _ALL_NAMED else []
    _name_points(figure, axes, [(str(chosen[i][1]["name"]), pairs[i]) for i in (*front, *others)], pairs)
    text = COSTS[cost][1] if cost in COSTS else count_text
    told = "; ".join(
        f"{chosen[i][1]['name']} {scale.told(pairs[i][1])} at {text(pairs[i][0])}" for i in front
    )
    return style.describe(figure, f"{len(pairs)} networks, {len(front)} on the Pareto front: {told}.")


def _name_points(
    figure: Figure,
    axes: Axes,
    named: Sequence[tuple[str, tuple[float, float]]],
    points: Sequence[tuple[float, float]],
) -> None:
    """Write names beside their points; one that would meet a point, another name or the edge is left out."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # settles where the points are
    reach = 5 * figure.dpi / 72
    corners = axes.transData.transform(points)
    taken = [Bbox.from_extents(x - reach, y - reach, x + reach, y + reach) for x, y in corners]
    for name, point in named:
        for right, up, side in _PLACES:
            style.note(axes, style.short_names([name], 18)[0], point, xytext=(right, up), ha=side)
            text = axes.texts[-1]
            box = text.get_window_extent()
            if axes.bbox.count_contains(box.corners()) == 4 and not box.count_overlaps(taken):
                taken.append(box)
                break
            text.remove()


def bits_frontier(
    series: Mapping[str, Sequence[Point]],
    *,
    reference: Mapping[str, Sequence[Point]] | None = None,
    cost: str = "bytes",
    title: str = "",
) -> Figure:
    """Series of networks (one a bit setting), each point annotated with its name, and the front over all of them.

    Args:
        series: e.g. {"W4A8": points, …}; a point's `name` is written beside it if it has one.
        reference: published series to compare with, drawn hollow and dashed.
        cost: as for `accuracy_compression`.
        title: of the figure.

    Raises:
        InputError: there is no point, one lacks accuracy or cost, or they are judged by several metrics.
    """
    everything = {**series, **(reference or {})}
    _check(everything, cost)
    scale = style.shared_scale(p for points in everything.values() for p in points)
    title = title or f"{scale.metric[0].upper()}{scale.metric[1:]} against size, by bits"
    figure, (axes,) = style.figure(height=4.2)
    ours = [(float(p[cost]), float(p["accuracy"])) for points in series.values() for p in points]
    _front_line(axes, [ours[i] for i in pareto_front([(x, scale.merit(y)) for x, y in ours])])
    for number, (name, points) in enumerate(everything.items()):
        ordered = sorted(points, key=lambda p: p[cost])
        color, hollow = style.COLORS[number % len(style.COLORS)], name not in series
        axes.plot(
            [p[cost] for p in ordered],
            [p["accuracy"] for p in ordered],
            color=color,
            label=name,
            linewidth=1.1,
            linestyle="--" if hollow else "-",
            marker=style.MARKERS[number % len(style.MARKERS)],
            markersize=6,
            markerfacecolor="none" if hollow else color,
        )
        for point in ordered:
            if point.get("name"):
                style.note(
                    axes, str(point["name"]), (point[cost], point["accuracy"]), xytext=(5, -8), fontsize=7
                )
    _cost_axis(axes, cost, [float(p[cost]) for points in everything.values() for p in points])
    style.dress(axes, title=title, x=COSTS[cost][0] if cost in COSTS else cost, y=scale.label, grid="both")
    style.legend(axes)
    upto = "up to" if scale.higher_is_better else "down to"
    best = [
        f"{name} {upto} {scale.told(scale.best(p['accuracy'] for p in points))}"
        for name, points in everything.items()
    ]
    return style.describe(figure, f"{title}: {', '.join(best)}.")


def _check(series: Mapping[str, Sequence[Point]], cost: str) -> None:
    if not any(series.values()):
        raise InputError("series", "there is no point in them", "pass {setting: [point, …]}")
    for name, points in series.items():
        for point in points:
            if point.get(cost) is None or point.get("accuracy") is None:
                raise InputError(
                    f"a point of series {name!r}", f"it lacks 'accuracy' or {cost!r}", "give it both"
                )


def _front_line(axes: Axes, front: Sequence[tuple[float, float]]) -> None:
    """Steps: between two points of the front, the cheaper one is what can be had."""
    axes.plot(
        *zip(*front, strict=True),
        drawstyle="steps-post",
        color=style.RED,
        linewidth=1.3,
        alpha=0.8,
        label="Pareto front",
        zorder=1,
    )


def _cost_axis(axes: Axes, cost: str, values: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if min(values) > 0 and max(values) / min(values) > 8:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    text = COSTS[cost][1] if cost in COSTS else count_text
    if cost == "latency_ms":
        text = "{:g}".format  # the axis names the unit
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axes.margins(x=0.16, y=0.12)
