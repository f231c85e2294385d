"""Which layers share their channels: the channel groups of a network as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InputError
from . import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from ..graph import ChannelGroup


def channel_group_graph(
    groups: Sequence[ChannelGroup], *, model: nn.Module | None = None, title: str = "Channel groups"
) -> Figure:
    """A row a layer, a column a group: a dot where the layer makes the channels, a ring where it reads them.

    Args:
        groups: from `pintsize.channel_groups`.
        model: the network, to list the layers in its order; else they come as the groups name them.
        title: of the figure.

    Raises:
        InputError: there is no group.
    """
    if not groups:
        raise InputError("groups", "there is none", "pass what pintsize.channel_groups returned")
    made = [dict.fromkeys(group.layers) for group in groups]
    read = [
        dict.fromkeys(
            layer
            for member in group.members
            if member.dim and not member.produces
            if (layer := member.parameter.rpartition(".")[0]) not in group.layers
        )
        for group in groups
    ]
    layers = list(
        dict.fromkeys(layer for column in zip(made, read, strict=True) for part in column for layer in part)
    )
    if model is not None:
        layers = [name for name, _ in model.named_modules() if name in set(layers)]
    row = {layer: number for number, layer in enumerate(layers)}
    width = max(style.WIDTH, 2.2 + 0.2 * len(groups))
    figure, (axes,) = style.figure(width=width, height=1.1 + 0.19 * len(layers))
    for column, (makers, readers) in enumerate(zip(made, read, strict=True)):
        color = style.COLORS[column % len(style.COLORS)]
        rows = [row[layer] for layer in (*makers, *readers)]
        axes.plot([column] * 2, [min(rows), max(rows)], color=color, linewidth=1.2, zorder=1)
        axes.scatter([column] * len(makers), [row[name] for name in makers], s=30, color=color, zorder=3)
        axes.scatter(
            [column] * len(readers),
            [row[name] for name in readers],
            s=26,
            facecolors=style.PAPER,
            edgecolors=color,
            linewidths=1.3,
            zorder=2,
        )
    style.dress(axes, title=title, x="group (channels below)", grid="y")
    style.names_axis(axes, layers)
    axes.set_title("● makes   ○ reads", fontsize=8.5, color=style.INK, loc="right")
    axes.set_xticks(
        range(len(groups)), [str(group.size) for group in groups], rotation=90 if len(groups) > 12 else 0
    )
    axes.set_xlim(-0.7, len(groups) - 0.3)
    widest = max(groups, key=lambda group: len(group.layers))
    return style.describe(
        figure,
        f"{title}: {len(groups)} groups over {len(layers)} layers; dots make the channels, rings read them. "
        f"The most coupled is {widest.name}: {len(widest.layers)} layers share {widest.size} channels.",
    )
