"""Pictures of quantization: the error of each layer, and the bits each was given."""

from __future__ import annotations

from collections.abc import Mapping
from math import log10
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from . import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sqnr_db(before: Tensor, after: Tensor) -> float:
    """Signal-to-quantization-noise ratio in decibels, `10 log10(Σx² / Σ(x − x̂)²)`; inf if they are equal."""
    before, after = before.detach().double(), after.detach().double()
    noise = (before - after).square().sum().item()
    signal = before.square().sum().item()
    if not noise:
        return float("inf")
    return 10 * log10(signal / noise) if signal else float("-inf")


def quantization_error(
    layers: Mapping[str, tuple[Tensor, Tensor]] | nn.Module,
    *,
    bits: Mapping[str, int] | None = None,
    title: str = "Quantization error of the weights",
) -> Figure:
    """SQNR of each layer's weights: 6 dB are worth one bit, and the shortest bar is the layer to look at.

    Args:
        layers: name → (before, after), or a quantized network, whose layers have a `weight_quantizer`.
        bits: name → width, written beside the bar.
        title: of the figure.

    Raises:
        InputError: there is no quantized layer.
    """
    if isinstance(layers, nn.Module):
        bits = bits or {name: int(m.weight_quantizer.bits) for name, m in _quantized(layers).items()}
        with torch.no_grad():
            layers = {
                name: (m.weight, m.weight_quantizer(m.weight)) for name, m in _quantized(layers).items()
            }
    if not layers:
        raise InputError("layers", "none is quantized", "quantize the network first")
    ratios = {name: sqnr_db(*pair) for name, pair in layers.items()}
    finite = {name: ratio for name, ratio in ratios.items() if abs(ratio) != float("inf")}
    figure, (axes,) = style.figure(height=1.0 + 0.2 * len(ratios))
    axes.barh(range(len(ratios)), [finite.get(name, 0) for name in ratios], color=style.BLUE, height=0.72)
    for row, (name, ratio) in enumerate(ratios.items()):
        text = f"{ratio:.1f}" if name in finite else "exact" if ratio > 0 else "all zero"
        style.note(
            axes,
            text + (f" · {bits[name]} bit" if bits and name in bits else ""),
            (max(finite.get(name, 0), 0), row),
        )
    style.dress(axes, title=title, x="SQNR (dB), higher is better", grid="x")
    style.names_axis(axes, ratios)
    axes.set_xlim(min(0, *finite.values(), 0), max([*finite.values(), 1]) * 1.28)
    worst = min(ratios, key=lambda name: ratios[name])
    return style.describe(
        figure, f"{title}: SQNR of {len(ratios)} layers, worst {worst} at {ratios[worst]:.1f} dB."
    )


def bits_per_layer(
    bits: Mapping[str, int] | nn.Module,
    *,
    sizes: Mapping[str, int] | None = None,
    title: str = "Bits per layer",
) -> Figure:
    """The width of each layer's weights.

    Args:
        bits: name → width, or a network: a layer without `weight_quantizer` has 32.
        sizes: name → number of weights, for the mean width; taken from the network if one is given.
        title: of the figure.

    Raises:
        InputError: there is no layer.
    """
    if isinstance(bits, nn.Module):
        from .weights import layer_weights

        weights, quantized = layer_weights(bits), _quantized(bits)
        sizes = {name: weight.numel() for name, weight in weights.items()}
        bits = {
            name: int(quantized[name].weight_quantizer.bits) if name in quantized else 32 for name in weights
        }
    if not bits:
        raise InputError("bits", "there is no layer", "pass {layer: bits}")
    widths = sorted(set(bits.values()))
    figure, (axes,) = style.figure(height=1.0 + 0.2 * len(bits))
    for number, width in enumerate(widths):
        rows = [row for row, value in enumerate(bits.values()) if value == width]
        axes.barh(rows, [width] * len(rows), color=style.COLORS[number % len(style.COLORS)], height=0.72)
    for row, width in enumerate(bits.values()):
        style.note(axes, str(width), (width, row))
    style.dress(axes, title=title, x="bits", grid="x")
    style.names_axis(axes, bits)
    axes.set_xlim(0, max(widths) * 1.12)
    sizes = sizes or dict.fromkeys(bits, 1)
    mean = sum(bits[name] * sizes[name] for name in bits) / sum(sizes[name] for name in bits)
    return style.describe(
        figure, f"{title}: {', '.join(map(str, widths))} in {len(bits)} layers, {mean:.2f} on average."
    )


def _quantized(model: nn.Module) -> dict[str, Any]:
    """Layers with a `weight_quantizer`."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "weight_quantizer")}
