"""What the pictures of the command line are drawn from: networks and their layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .loading import load_model

if TYPE_CHECKING:
    from torch import nn


def network_of(name: str, plain: str | None) -> nn.Module:
    """The network in a file, or the one that has the name."""
    from ..storage.network_file import load

    if Path(name).suffix not in {".safetensors", ".pint", ".pt", ".pth", ".th"}:
        return load_model(name).eval()
    return load(name, model=None if plain is None else load_model(plain))


def labels(networks: list[str]) -> list[str]:
    """What tells files apart: their stems, else their paths."""
    stems = [Path(name).stem if Path(name).suffix else name for name in networks]
    return stems if len(set(stems)) == len(stems) else [str(Path(name).with_suffix("")) for name in networks]


def layer_of(network: nn.Module, name: str | None) -> tuple[str, Any]:
    """A layer's path and weight; of all, the one with the most weights."""
    from ..errors import unknown
    from ..viz.weights import layer_weights

    weights = layer_weights(network)
    name = name or max(weights, key=lambda layer: weights[layer].numel())
    if name not in weights:
        raise unknown("layer", name, weights)
    return name, weights[name]


def cost_of(name: str) -> str:
    """`name`, if it is a cost.

    Raises:
        InputError: it is none.
    """
    from ..errors import unknown
    from ..viz.frontier import COSTS

    if name not in COSTS:
        raise unknown("cost", name, COSTS)
    return name
