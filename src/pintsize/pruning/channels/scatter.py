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

from ...graph.surgery import cut
from ...storage import record as _record


class Scatter(nn.Module):
    """`[B, k, …]` → `[B, C, …]`: the k channels at their places, a constant each at the others.

    Args:
        kept: places of the channels, rising.
        channels: `C`.
        constants: for the other places in order, [C − k]; None: zeros.
    """

    table: Tensor
    constants: Tensor | None

    def __init__(self, kept: Sequence[int], channels: int, constants: Tensor | None = None) -> None:
        super().__init__()
        self.channels = channels
        table = torch.full((channels,), len(kept), dtype=torch.long)  # one channel of zeros serves all places
        if constants is not None:
            table[sorted(set(range(channels)) - set(kept))] = len(kept) + torch.arange(channels - len(kept))
        table[list(kept)] = torch.arange(len(kept))
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("constants", constants)

    def forward(self, x: Tensor) -> Tensor:
        """Place the channels of `x`."""
        others = torch.zeros_like(x[:, :1])
        if self.constants is not None:
            others = others + self.constants.view([-1 if dim == 1 else 1 for dim in range(x.dim())])
        return torch.cat([x, others], 1).index_select(1, self.table)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"{self.channels} channels" + (", constants" if self.constants is not None else "")


@_record.register
@dataclass(frozen=True)
class ScatterStep(_record.Step):
    """Convolutions compute fewer channels than the network reads; the rest are constants put in afterwards."""

    kind: ClassVar[str] = "scatter"
    may_follow: ClassVar[frozenset[str]] = frozenset({"prune", "depth", "mask"})
    reason: ClassVar[str] = "the scales and codebooks that it stored belong to the channels as they were"

    layers: list[dict[str, Any]] = field(default_factory=list)
    """Of each: `layer`, `norm` behind it, `kept` (sorted indices), `channels`, and `constants`: whether the others are
    not zeros."""

    def apply(self, model: nn.Module) -> None:
        """Cut the layers and put `Scatter` behind them."""
        for entry in self.layers:
            scatter(model, **{"constants": False, **entry})


def scatter(
    model: nn.Module, layer: str, norm: str, kept: Sequence[int], channels: int, *, constants: bool
) -> None:
    """Let one convolution and the norm behind it compute `kept` of its `channels` alone, in place.

    The norm becomes a `Sequential` of itself and `Scatter`, which puts in what the norm makes of zeros where
    `constants` says that this is not zero.
    """
    convolution = model.get_submodule(layer)
    axis = 1 if getattr(convolution, "transposed", False) else 0
    gone = sorted(set(range(channels)) - set(kept))
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    vectors = [
        f"{layer}.bias",
        *(f"{norm}.{key}" for key in ("weight", "bias", "running_mean", "running_var")),
    ]
    values = of_zeros(model.get_submodule(norm))[gone].clone() if constants else None
    removed = {f"{layer}.weight": {axis: gone}} | {name: {0: gone} for name in vectors if name in own}
    cut(model, removed, {layer: {"out_channels": len(kept)}, norm: {"num_features": len(kept)}})
    parent, _, name = norm.rpartition(".")
    module = model.get_submodule(norm)
    placed = Scatter(kept, channels, values).to(own[f"{layer}.weight"].device)
    setattr(model.get_submodule(parent), name, nn.Sequential(module, placed).train(module.training))


@torch.no_grad()
def of_zeros(norm: nn.Module) -> Tensor:
    """What a batch norm in eval mode makes of channels of zeros, [C]."""
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_mean is not None
    zeros = torch.zeros_like(norm.running_mean)[None]
    return nn.functional.batch_norm(
        zeros, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )[0]
