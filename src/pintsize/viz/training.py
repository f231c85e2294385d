"""Pictures of training: curves, and what happened to each layer in each epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..tables import judged
from ..units import Scale
from . import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Sequence[Mapping[str, Any]]
"""One entry an epoch, with any of train_loss, val_loss, train_accuracy, val_accuracy (percent), or val_metric with its
metric_name and metric_unit."""


def training_curves(
    histories: History | Mapping[str, History], *, recovery_ends: Sequence[int] = (), title: str = "Training"
) -> Figure:
    """Loss and accuracy over epochs, training and validation, phases one after the other.

    Args:
        histories: of one training, or by phase (`{"train": …, "recover": …}`) in order of time.
        recovery_ends: epochs (from 1, over all phases) after which a recovery loop ended, to be marked.
        title: of the figure.

    Raises:
        InputError: there is no epoch in them.
    """
    phases = dict(histories) if isinstance(histories, Mapping) else {"": histories}
    phases = {name: history for name, history in phases.items() if history}
    if not phases:
        raise InputError("histories", "there is no epoch in them", "pass what ps.train returned")
    figure, (top, bottom) = style.figure(2, 1, height=4.4, sharex=True)
    epochs = [row for history in phases.values() for row in history]
    _curves(top, epochs, lambda row, part: row.get(f"{part}loss"))
    scale = Scale.among(epochs)
    _curves(bottom, epochs, judged)
    style.dress(top, title=title, y="loss")
    style.dress(bottom, x="epoch", y=scale.label)
    _phases(top, bottom, phases)
    for end in recovery_ends:
        accuracy = judged(epochs[end - 1], "val_") if 0 < end <= len(epochs) else None
        if accuracy is not None:
            bottom.plot([end], [accuracy], "v", color=style.RED, markersize=7)
    if recovery_ends:
        bottom.plot([], [], "v", color=style.RED, label="recovery ends")
    style.whole_numbers(bottom)
    lines, names = bottom.get_legend_handles_labels()
    if lines:  # below both: inside, flat curves leave no place that is sure to be free
        figure.legend(
            lines,
            names,
            loc="outside lower center",
            ncols=len(lines),
            fontsize=8.5,
            frameon=False,
            labelcolor=style.INK,
        )
    values = [value for row in epochs if (value := judged(row, "val_")) is not None]
    reached = f"; best validation {scale.metric} {scale.told(scale.best(values))}" if values else ""
    return style.describe(figure, f"{title}: loss and {scale.metric} over {len(epochs)} epochs{reached}.")


def _curves(axes: Axes, epochs: History, quantity: Callable[[Mapping[str, Any], str], float | None]) -> None:
    for number, part in enumerate(("train", "val")):
        points = [
            (x, value) for x, row in enumerate(epochs, 1) if (value := quantity(row, f"{part}_")) is not None
        ]
        if points:
            marker = style.MARKERS[number] if len(points) <= 40 else ""
            axes.plot(
                *zip(*points, strict=True),
                linestyle=style.DASHES[1 - number],
                marker=marker,
                markersize=3.5,
                color=style.COLORS[number],
                label={"train": "training", "val": "validation"}[part],
                linewidth=1.6,
            )


def _phases(top: Axes, bottom: Axes, phases: Mapping[str, History]) -> None:
    """A line and a name where a new phase begins."""
    start = 0
    for name, history in phases.items():
        if len(phases) > 1:
            top.annotate(
                name,
                (start + len(history) + 0.4, 1),
                xycoords=("data", "axes fraction"),
                fontsize=8.5,
                color=style.INK,
                va="top",
                ha="right",
                style="italic",
            )
        if start:
            for axes in (top, bottom):
                axes.axvline(start + 0.5, color=style.INK, linewidth=0.8, linestyle=":")
        start += len(history)


def left_over_epochs(
    history: History, *, recovery_ends: Sequence[int] = (), title: str = "What is left over the epochs"
) -> Figure:
    """Fractions of channels, parameters and MACs that are left, epoch by epoch.

    Args:
        history: entries with any of channels, params and macs, as fractions of the dense network (0–1).
        recovery_ends: epochs (from 1) after which a recovery loop ended, drawn as dotted lines.
        title: of the figure.

    Raises:
        InputError: no entry has any of them.
    """
    labels = {"channels": "channels attended to", "params": "parameters", "macs": "MACs"}
    curves = {
        label: [(x, 100 * row[key]) for x, row in enumerate(history, 1) if row.get(key) is not None]
        for key, label in labels.items()
    }
    if not any(curves.values()):
        raise InputError("history", "it does not say what is left", "pass the history of a pruning")
    figure, (axes,) = style.figure(height=3.0)
    for number, (label, points) in enumerate(curves.items()):
        if points:
            color, dash = style.COLORS[number], style.DASHES[number]
            axes.plot(*zip(*points, strict=True), label=label, color=color, linestyle=dash, linewidth=1.6)
    for end in recovery_ends:
        axes.axvline(end + 0.5, color=style.INK, linewidth=0.4, linestyle=":")
    style.dress(axes, title=title, x="epoch", y="left (%)")
    style.whole_numbers(axes)
    style.legend(axes, loc="lower left")
    told = ", ".join(f"{points[-1][1]:.0f} % of {label}" for label, points in curves.items() if points)
    return style.describe(figure, f"{title}: after {len(history)} epochs {told}.")


def layer_epoch_heatmap(
    kept: Mapping[str, Sequence[float]] | Sequence[Mapping[str, float]], *, title: str = "Channels kept"
) -> Figure:
    """Which layers were pruned when: layer × epoch, the kept fraction as colour.

    Args:
        kept: for each layer its kept fraction (0–1) epoch by epoch, or for each epoch that of each layer.
        title: of the figure.

    Raises:
        InputError: it is empty, or the layers differ in their number of epochs.
    """
    rows = dict(kept) if isinstance(kept, Mapping) else _by_layer(kept)
    if not rows or len({len(row) for row in rows.values()}) != 1 or not len(next(iter(rows.values()))):
        raise InputError(
            "kept", "it does not hold the same epochs for every layer", "pass {layer: [fraction, …]}"
        )
    values = 100 * np.array(list(rows.values()), dtype=float)
    figure, (axes,) = style.figure(height=max(2.4, 0.17 * len(rows) + 1))
    image = axes.imshow(
        values,
        aspect="auto",
        cmap=style.HEAT,
        vmin=0,
        vmax=100,
        interpolation="nearest",
        extent=(0.5, values.shape[1] + 0.5, len(rows) - 0.5, -0.5),
    )
    style.dress(axes, title=title, x="epoch", grid="")
    style.names_axis(axes, rows)
    style.whole_numbers(axes)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("kept (%)", fontsize=9, color=style.INK)
    bar.ax.tick_params(labelsize=8, colors=style.INK)
    least = min(rows, key=lambda name: rows[name][-1])
    return style.describe(
        figure,
        f"{title}, layer by epoch: after {values.shape[1]} epochs {values[:, -1].mean():.0f} % are kept on "
        f"average, least in {least} ({100 * rows[least][-1]:.0f} %).",
    )


def _by_layer(epochs: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {
        name: [epoch[name] for epoch in epochs if name in epoch] for name in (epochs[0] if epochs else ())
    }
