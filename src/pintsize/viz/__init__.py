"""Figures, each a function that returns a matplotlib Figure; `viz.save` writes them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_MODULES = {
    "activations": ("display_activations",),
    "frontier": ("accuracy_compression", "bits_frontier", "pareto_front"),
    "groups": ("channel_group_graph",),
    "quantization": ("bits_per_layer", "quantization_error", "sqnr_db"),
    "scans": ("layer_importance", "sensitivity_curves"),
    "scenes": ("draw_boxes", "draw_masks", "draw_pictures"),
    "stages": ("filters_per_layer", "round_bars", "runtime_bars", "stage_bars"),
    "style": ("description", "save", "to_png", "to_svg"),
    "training": ("layer_epoch_heatmap", "left_over_epochs", "training_curves"),
    "weights": (
        "channel_box",
        "display_kernels",
        "display_scatter",
        "filter_norms",
        "kept_weights",
        "weight_histogram",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)  # noqa: PLE0605 (a list of strings)

if TYPE_CHECKING:
    from .activations import display_activations as display_activations
    from .frontier import accuracy_compression as accuracy_compression
    from .frontier import bits_frontier as bits_frontier
    from .frontier import pareto_front as pareto_front
    from .groups import channel_group_graph as channel_group_graph
    from .quantization import bits_per_layer as bits_per_layer
    from .quantization import quantization_error as quantization_error
    from .quantization import sqnr_db as sqnr_db
    from .scans import layer_importance as layer_importance
    from .scans import sensitivity_curves as sensitivity_curves
    from .scenes import draw_boxes as draw_boxes
    from .scenes import draw_masks as draw_masks
    from .scenes import draw_pictures as draw_pictures
    from .stages import filters_per_layer as filters_per_layer
    from .stages import round_bars as round_bars
    from .stages import runtime_bars as runtime_bars
    from .stages import stage_bars as stage_bars
    from .style import description as description
    from .style import save as save
    from .style import to_png as to_png
    from .style import to_svg as to_svg
    from .training import layer_epoch_heatmap as layer_epoch_heatmap
    from .training import left_over_epochs as left_over_epochs
    from .training import training_curves as training_curves
    from .weights import channel_box as channel_box
    from .weights import display_kernels as display_kernels
    from .weights import display_scatter as display_scatter
    from .weights import filter_norms as filter_norms
    from .weights import kept_weights as kept_weights
    from .weights import weight_histogram as weight_histogram


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pintsize.viz' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
