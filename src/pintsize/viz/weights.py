"""Pictures of weights: histograms with levels, boxes per channel, kept shares, kernels, scatter."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError, unknown
from . import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_LEVELS = 300
"""More distinct values than this are no levels but a float tensor."""
_APART = 40
"""So many levels can be told apart by eye."""


def weight_histogram(
    before: Tensor,
    after: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    layer: str = "weights",
    bins: int = 120,
) -> Figure:
    """How often each value occurs before quantization, and the levels after it.

    Args:
        before: weights of any shape.
        after: the same weights quantized and scaled back; its distinct values are drawn as levels if they are
            few, as a second histogram if every channel has levels of its own.
        scale: step between two levels, of each channel (the first dimension): the weights are drawn in steps,
            where the levels of all channels are the same whole numbers.
        layer: its name, for the title.
        bins: of the histogram.

    Raises:
        InputError: a tensor is empty or not finite, or there is not one scale for each channel.
    """
    steps = _steps(before, scale, layer)
    values = _numbers(before / steps, layer)
    figure, (axes,) = style.figure()
    edges = np.histogram_bin_edges(values, bins=bins) if scale is None else _whole_bins(values, bins)
    axes.hist(values, bins=edges.tolist(), color=style.BLUE, alpha=0.45, label="before")
    told = f"{values.size} weights from {before.min():.3g} to {before.max():.3g}"
    if after is not None:
        quantized = _numbers(after / steps, layer)
        levels, counts = np.unique(
            quantized.round() if scale is not None else quantized, return_counts=True
        )  # a weight is not exactly its code times its scale, divided by it
        if len(levels) <= _MOST_LEVELS:
            # each level is drawn as high as the histogram would be with its weights spread over its bin
            width = (levels[-1] - levels[0]) / max(len(levels) - 1, 1) or 1.0
            axes.vlines(
                levels,
                0,
                counts * (edges[1] - edges[0]) / width,
                color=style.RED,
                linewidth=1.6 if len(levels) <= _APART else 0.5,
                label=f"{len(levels)} levels after",
            )
            if len(levels) > _APART:  # they stand so close that they hide what is behind
                axes.hist(values, bins=edges.tolist(), histtype="step", color=style.BLUE, linewidth=1.3)
            told += f", {len(levels)} levels after quantization"
        else:
            axes.hist(
                quantized,
                bins=edges.tolist(),
                histtype="step",
                color=style.RED,
                linewidth=1.1,
                label="after (each channel\nhas its own levels)",
            )
    unit = "weight" if scale is None else "weight (steps of its channel)"
    style.dress(axes, title=f"Weights of {layer}", x=unit, y="weights per bin")
    style.legend(axes, loc="upper right")
    return style.describe(figure, f"Histogram of {layer}: {told}.")


def _whole_bins(values: np.ndarray[Any, Any], bins: int) -> np.ndarray[Any, Any]:
    """Edges of about so many bins, each with the same number of whole numbers in it, or parts of one."""
    low, high = np.floor(values.min()) - 0.5, np.ceil(values.max()) + 0.5
    width = (high - low) / bins
    width = np.ceil(width) if width > 1 else 1 / np.floor(1 / width)
    return np.arange(low, high + width, width)


def _steps(weight: Tensor, scale: Tensor | None, layer: str) -> Tensor:
    """The step of each weight, in a shape that divides them."""
    if scale is None:
        return torch.ones(())
    scale = scale.detach().float().cpu().flatten()
    if len(scale) not in {1, len(weight) if weight.dim() else 1}:
        raise InputError(
            f"{len(scale)} scales of {layer}", f"it has {len(weight)} channels", "pass one scale for each"
        )
    return scale.reshape(-1, *[1] * (weight.dim() - 1))


def channel_box(weight: Tensor, *, layer: str = "weights", most: int = 64) -> Figure:
    """The spread of the weights of each output channel, as boxes; many channels are thinned evenly to `most`.

    Args:
        weight: [C, …].
        layer: its name, for the title.
        most: boxes drawn.

    Raises:
        InputError: the tensor is empty, not finite, or has no channels.
    """
    _numbers(weight, layer)
    if weight.dim() < 2:
        raise InputError(
            f"{layer} of shape {tuple(weight.shape)}", "it has no channels to compare", "pass [C, …]"
        )
    rows = weight.detach().float().flatten(1)
    chosen = torch.linspace(0, len(rows) - 1, min(most, len(rows))).round().long()
    figure, (axes,) = style.figure(height=3.4)
    axes.boxplot(
        [rows[index].numpy() for index in chosen],
        positions=chosen.tolist(),
        widths=0.7 * len(rows) / len(chosen),
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": style.SKY, "edgecolor": style.BLUE},
        medianprops={"color": style.RED, "linewidth": 1.4},
        whiskerprops={"color": style.BLUE},
        capprops={"color": style.BLUE},
        flierprops={"marker": ".", "markersize": 2, "markeredgecolor": style.BLUE},
    )
    style.dress(axes, title=f"Weights of {layer}, channel by channel", x="output channel", y="weight")
    zero = int((rows == 0).all(dim=1).sum())
    return style.describe(
        figure,
        f"Box plot of {layer}, {len(chosen)} of {len(rows)} channels: medians from "
        f"{rows.median(dim=1).values.min():.3g} to {rows.median(dim=1).values.max():.3g}; {zero} all zero.",
    )


def kept_weights(model: nn.Module, *, title: str = "Weights kept per layer") -> Figure:
    """The percentage of weights that are not zero, layer by layer (convolutions and linears).

    Raises:
        InputError: the model has no such layer.
    """
    kept = {name: 100 * (weight != 0).double().mean().item() for name, weight in layer_weights(model).items()}
    sizes = [weight.numel() for weight in layer_weights(model).values()]
    figure, (axes,) = style.figure(height=1.0 + 0.2 * len(kept))
    axes.barh(range(len(kept)), list(kept.values()), color=style.BLUE, height=0.72)
    for row, percent in enumerate(kept.values()):
        style.note(axes, f"{percent:.1f}", (percent, row))
    style.dress(axes, title=title, x="kept (%)", grid="x")
    style.names_axis(axes, kept)
    axes.set_xlim(0, 114)
    whole = float(np.average(list(kept.values()), weights=sizes))
    least = min(kept, key=lambda name: kept[name])
    return style.describe(figure, f"{title}: {whole:.1f} % over all, least in {least} ({kept[least]:.1f} %).")


def display_kernels(model: nn.Module, layer: str | None = None, *, most: int = 64) -> Figure:
    """Kernels averaged over input channels, one heat map each, on one colour scale centred on zero.

    Args:
        model: any network.
        layer: path of a 2-d convolution; the first with a kernel wider than 1 if None.
        most: kernels drawn.

    Raises:
        InputError: there is no such convolution.
    """
    kernels = {name: w for name, w in layer_weights(model).items() if w.dim() == 4}
    name = layer or next((name for name, w in kernels.items() if w.shape[-1] > 1), None)
    if name is None:
        raise InputError("model", "it has no 2-d convolution with a kernel wider than 1", "name a layer")
    if name not in kernels:
        raise unknown("convolution", name, kernels)
    mean = kernels[name].mean(dim=1)[:most].numpy()
    columns = min(8, len(mean))
    rows = ceil(len(mean) / columns)
    figure, grid = style.figure(rows, columns, height=0.62 * rows + 0.6)
    limit = float(np.abs(mean).max()) or 1.0
    for axes in grid:
        axes.set_axis_off()
    for number, (axes, kernel) in enumerate(zip(grid, mean, strict=False)):
        image = axes.imshow(kernel, cmap=style.DIVERGING, vmin=-limit, vmax=limit)
        axes.set_title(str(number), fontsize=6.5, color=style.INK, pad=1.5)
    style.head(figure, f"Kernels of {name}, mean over input channels")
    bar = figure.colorbar(image, ax=grid, shrink=0.8)
    bar.ax.tick_params(labelsize=7.5, colors=style.INK)
    return style.describe(figure, f"{len(mean)} kernels of {name} as heat maps, values within ±{limit:.3g}.")


def display_scatter(
    first: nn.Module, second: nn.Module, *, labels: tuple[str, str] = ("first", "second"), decimals: int = 3
) -> Figure:
    """How often each distinct weight value occurs in two models: value across, frequency up (logarithmic).

    Args:
        first: drawn in orange.
        second: drawn in blue.
        labels: their names.
        decimals: weights are rounded to so many before they are counted; a clustered model has few values.
    """
    figure, (axes,) = style.figure()
    told = []
    for model, label, color, marker in (
        (first, labels[0], style.ORANGE, "o"),
        (second, labels[1], style.BLUE, "x"),
    ):
        weights = torch.cat([weight.flatten() for weight in layer_weights(model).values()])
        values, counts = torch.unique((weights * 10**decimals).round(), return_counts=True)
        axes.scatter(
            values / 10**decimals,
            counts,
            s=9,
            color=color,
            marker=marker,
            label=label,
            linewidths=0.9,
            alpha=0.7,
            rasterized=len(values) > 500,
        )
        told.append(f"{label} {len(values)}")
    axes.set_yscale("log")
    style.dress(
        axes,
        title="Distinct weights",
        x=f"weight (rounded to {decimals} decimals)",
        y="how often",
        grid="both",
    )
    style.legend(axes)
    return style.describe(
        figure, f"Frequency of each distinct weight value; distinct values: {', '.join(told)}."
    )


def filter_norms(model: nn.Module, *, order: int = 1) -> Figure:
    """Norms of each convolution's filters, sorted, over the largest: a steep curve can be pruned deep.

    Li et al., "Pruning Filters for Efficient ConvNets" (1608.08710), figure 2a.

    Raises:
        InputError: the model has no convolution.
    """
    convolutions = {name: w for name, w in layer_weights(model).items() if w.dim() > 2}
    if not convolutions:
        raise InputError("model", "it has no convolution", "pass a convolutional network")
    figure, (axes,) = style.figure(height=3.6)
    flattest, least = "", -1.0
    colors = style.depth_colors(len(convolutions))
    for (name, weight), color in zip(convolutions.items(), colors, strict=True):
        norms = weight.flatten(1).norm(p=order, dim=1).sort(descending=True).values
        curve = norms / norms[0].clamp_min(torch.finfo(norms.dtype).tiny)
        axes.plot(
            np.linspace(0, 100, len(curve)), curve.numpy(), color=color, linewidth=1.2, label=name or "(root)"
        )
        if curve[-1] > least:
            flattest, least = name, float(curve[-1])
    style.dress(
        axes, title=f"Filter norms (L{order}), sorted", x="filters (%)", y="norm / largest of the layer"
    )
    if len(convolutions) <= 12:
        style.legend(axes, fontsize=7.5, ncols=2)
    else:
        style.depth_bar(axes, len(convolutions))
    return style.describe(
        figure,
        f"Sorted filter norms of {len(convolutions)} convolutions, relative to the largest; "
        f"flattest is {flattest}, whose smallest filter has {100 * least:.0f} % of it.",
    )


def layer_weights(model: nn.Module) -> Mapping[str, Tensor]:
    """Weights of the convolutions and linears by layer path, in order, detached, as fp32 on the CPU.

    Raises:
        InputError: there is none.
    """
    found = {
        name: module.weight.detach().float().cpu()
        for name, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor)
        and module.weight.dim() > 1
        and not isinstance(module, nn.Embedding)
    }
    if not found:
        raise InputError(
            f"model {type(model).__name__}",
            "it has no convolution and no linear layer",
            "pass a network with weights",
        )
    return found


def _numbers(tensor: Tensor, layer: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    values = tensor.detach().float().cpu().flatten().numpy()
    if not values.size or not np.isfinite(values).all():
        raise InputError(f"weights of {layer}", "they are empty or not finite", "pass trained weights")
    return values


def layer_of(network: nn.Module, name: str | None) -> tuple[str, Any]:
    """A layer's path and weight; of all, the one with the most weights."""
    weights = layer_weights(network)
    name = name or max(weights, key=lambda layer: weights[layer].numel())
    if name not in weights:
        raise unknown("layer", name, weights)
    return name, weights[name]
