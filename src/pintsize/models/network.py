"""What all named networks have in common."""

from __future__ import annotations

from torch import nn


class Network(nn.Module):
    """A module that a notebook shows layer by layer."""

    def _repr_html_(self) -> str:
        from ..report import show

        return show(self)._repr_html_()
