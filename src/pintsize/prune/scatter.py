"""A layer that computes only its kept channels and puts them where the network expects them.

The report's vectors belong to single convolutions. In a residual network the last convolution of a block
may lose channels that the stream of residuals still needs: they cannot be cut from the stream, but the
convolution and its norm need not compute their zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import record as _record
from ..graph.surgery import cut


class Scatter(nn.Module):
    """`[B, k, …]` → `[B, C, …]`: the k channels at their places, zeros at the others.

    Args:
        kept: places of the channels, rising.
        channels: `C`.
    """

    table: Tensor

    def __init__(self, kept: Sequence[int], channels: int) -> None:
        super().__init__()
        self.channels = channels
        table = torch.full((channels,), len(kept), dtype=torch.long)  # one channel of zeros serves all places
        table[list(kept)] = torch.arange(len(kept))
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Place the channels of `x`."""
        return torch.cat([x, torch.zeros_like(x[:, :1])], 1).index_select(1, self.table)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"{int((self.table < self.table.max()).sum())} of {self.channels} channels"


@_record.register
@dataclass(frozen=True)
class ScatterStep(_record.Step):
    """Convolutions compute fewer channels than the network reads; the rest are zeros put in afterwards."""

    kind: ClassVar[str] = "scatter"
    may_follow: ClassVar[frozenset[str]] = frozenset({"prune", "depth", "mask"})
    reason: ClassVar[str] = "the scales and codebooks that it stored belong to the channels as they were"

    layers: list[dict[str, Any]] = field(default_factory=list)
    """Of each: `layer`, `norm` behind it, `kept` (sorted indices), `channels`."""

    def apply(self, model: nn.Module) -> None:
        """Cut the layers and put `Scatter` behind them."""
        for entry in self.layers:
            scatter(model, entry["layer"], entry["norm"], entry["kept"], entry["channels"])


def scatter(model: nn.Module, layer: str, norm: str, kept: Sequence[int], channels: int) -> None:
    """Let one convolution and the norm behind it compute `kept` of its `channels` alone, in place.

    The norm becomes a `Sequential` of itself and `Scatter`.
    """
    convolution = model.get_submodule(layer)
    axis = 1 if getattr(convolution, "transposed", False) else 0
    gone = sorted(set(range(channels)) - set(kept))
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    vectors = [
        f"{layer}.bias",
        *(f"{norm}.{key}" for key in ("weight", "bias", "running_mean", "running_var")),
    ]
    removed = {f"{layer}.weight": {axis: gone}} | {name: {0: gone} for name in vectors if name in own}
    cut(model, removed, {layer: {"out_channels": len(kept)}, norm: {"num_features": len(kept)}})
    parent, _, name = norm.rpartition(".")
    module = model.get_submodule(norm)
    placed = Scatter(kept, channels).to(own[f"{layer}.weight"].device)
    setattr(model.get_submodule(parent), name, nn.Sequential(module, placed).train(module.training))
