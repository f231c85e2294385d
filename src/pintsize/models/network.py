"""What all named networks have in common."""

from __future__ import annotations

from torch import nn

from ..registry import DISPLAYS


class Network(nn.Module):
    """A module that a notebook shows layer by layer."""

    def _repr_html_(self) -> str:
        shown: str = DISPLAYS["network"](self)._repr_html_()
        return shown
