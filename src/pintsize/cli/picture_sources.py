"""What the pictures of the command line are drawn from: networks and their layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
