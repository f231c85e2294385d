"""The report's pictures of one attention pruning (its Figures 1 to 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from ...tables import judged
from ...training import History
from ...units import Scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figures(
    history: History, ends: Sequence[int], params: float, model: nn.Module | None = None
) -> dict[str, Figure]:
    """Accuracy and loss over epochs, compression over epochs, layer × epoch, accuracy against compression.

    Args:
        history: of `AttentionResult`.
        ends: its epochs at which a recovery ended.
        params: of the dense network.
        model: the pruned network, for the box plot of the weights of its most pruned layer.
    """
    from ...viz import channel_box, layer_epoch_heatmap, left_over_epochs, training_curves

    found = {
        "training": training_curves(history, recovery_ends=ends, title="Attention pruning"),
        "compression": left_over_epochs(history, recovery_ends=ends),
        "layers": layer_epoch_heatmap([row["kept"] for row in history], title="Channels kept"),
        "frontier": frontier(history, params),
    }
    if model is not None:
        name = min(history[-1]["kept"], key=lambda layer: history[-1]["kept"][layer])
        layer = name.partition("#")[0]
        found["channels"] = channel_box(model.get_submodule(layer).weight.detach(), layer=layer)  # type: ignore[operator]
    return found


def frontier(history: Sequence[Mapping[str, Any]], params: float) -> Figure:
    """How good the network is on validation images, against the parameters left, at the end of each recovery.

    Args:
        history: of `AttentionResult`.
        params: of the dense network.

    Raises:
        InputError: no recovery has ended.
    """
    from ...viz import accuracy_compression

    points = [
        {
            **row,
            "name": f"epoch {row['epoch']}",
            "params": row["params"] * params,
            "accuracy": judged(row, "val_"),
        }
        for row in history
        if row.get("ends")
    ]
    metric = Scale.among(points).metric
    return accuracy_compression(points, cost="params", title=f"Validation {metric} against parameters left")
