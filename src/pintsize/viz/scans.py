"""Pictures of how much each layer bears: accuracy over the fraction removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import InputError
from ..units import ACCURACY, Scale
from . import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = Mapping[str, Mapping[float, float]]
"""Layer → {fraction removed (0–1): accuracy in percent, or another metric}."""
_NAMED = 10
"""More layers than this are told apart by depth on a colour bar, not by name."""


def sensitivity_curves(
    curves: Curves,
    *,
    max_drop: float | None = None,
    title: str = "Sensitivity to pruning",
    scale: Scale = ACCURACY,
) -> Figure:
    """How good the network is with one layer pruned at a time, without retraining.

    Args:
        curves: of each layer.
        max_drop: tolerated, in percentage points or the metric's units; drawn as a line on the worse side of ratio 0.
        title: of the figure.
        scale: what is drawn: `pintsize.units.Scale(metric, unit, higher_is_better)`; an accuracy in percent by default.

    Raises:
        InputError: there is no curve, or one has no point.
    """
    figure, (axes,) = style.figure(height=3.8 if len(curves) > _NAMED else 4.4)
    _draw(axes, curves)
    style.dress(axes, title=title, x="removed from the layer (%)", y=scale.label)
    _name(figure, curves)
    dense = scale.best(curve[min(curve)] for curve in curves.values())
    falls, below = ("falls", "below") if scale.higher_is_better else ("rises", "above")
    if max_drop is not None:
        limit = dense - scale.merit(max_drop)
        axes.axhline(limit, color=style.INK, linestyle="--", linewidth=1)
        style.note(
            axes, f"{max_drop:g} {scale.points} {below} dense", (0, limit), xytext=(2, scale.merit(-7))
        )
    last = {name: curve[max(curve)] for name, curve in curves.items()}
    worst, best = (choose(last, key=lambda name: scale.merit(last[name])) for choose in (min, max))
    return style.describe(
        figure,
        f"{title} of {len(curves)} layers: at the largest ratio {scale.metric} {falls} from {scale.told(dense, 1)} to "
        f"{scale.told(last[worst], 1)} for {worst} (most sensitive) and to {scale.told(last[best], 1)} for {best} (least).",
    )


def layer_importance(
    without: Curves,
    retrained: Curves | None = None,
    *,
    title: str = "Layer importance",
    scale: Scale = ACCURACY,
) -> Figure:
    """How good the network is as the smallest filters of one layer are removed, before and after a short retraining.

    Li et al., "Pruning Filters for Efficient ConvNets" (1608.08710), figures 2b and 2c.

    Args:
        without: curves without retraining.
        retrained: curves with it; a second panel.
        title: of the figure.
        scale: as for `sensitivity_curves`.

    Raises:
        InputError: there is no curve, or one has no point.
    """
    panels = [("without retraining", without), *([("after retraining", retrained)] if retrained else [])]
    figure, grid = style.figure(len(panels), 1, height=1.1 + 2.7 * len(panels), sharex=True, sharey=True)
    for axes, (label, curves) in zip(grid, panels, strict=True):
        _draw(axes, curves)
        style.dress(
            axes,
            title=label,
            x="filters removed (%)" if axes is grid[-1] else "",
            y=scale.label,
            panel=True,
        )
    style.head(figure, title)
    _name(figure, without)
    lost = {
        name: scale.worse(scale.best(curve.values()), curve[max(curve)]) for name, curve in without.items()
    }
    most = max(lost, key=lambda name: lost[name])
    fall = "fall" if scale.higher_is_better else "rise"
    return style.describe(
        figure,
        f"{title} of {len(without)} layers: the largest {fall} is {scale.number(lost[most], 1)} {scale.points}, of {most}.",
    )


def _draw(axes: Axes, curves: Curves) -> None:
    if not curves or not all(curves.values()):
        raise InputError("curves", "there is none, or one has no point", "pass {layer: {ratio: accuracy}}")
    few = len(curves) <= _NAMED
    depth = style.depth_colors(len(curves))
    for number, (name, curve) in enumerate(curves.items()):
        ratios = sorted(curve)
        axes.plot(
            [100 * ratio for ratio in ratios],
            [curve[ratio] for ratio in ratios],
            linewidth=1.4,
            markersize=3.5,
            color=style.COLORS[number % len(style.COLORS)] if few else depth[number],
            marker=style.MARKERS[number % len(style.MARKERS)] if few else "",
            linestyle="--" if few and number >= len(style.COLORS) else "-",
            label=style.short_names([name])[0],
        )
    if not few:
        style.depth_bar(axes, len(curves))


def _name(figure: Figure, curves: Curves) -> None:
    """The names of few curves, below the axes, where they hide nothing."""
    if len(curves) <= _NAMED:
        handles, names = figure.axes[0].get_legend_handles_labels()
        longest = max(map(len, names))
        figure.legend(
            handles,
            names,
            loc="outside lower center",
            ncols=3 if longest <= 15 else 2,
            fontsize=8,
            frameon=False,
            labelcolor=style.INK,
        )
