"""Figures and tables as a notebook shows them."""

from __future__ import annotations

from itertools import count

from matplotlib.figure import Figure

_NUMBERS = count()


class ShownFigure(Figure):
    """A figure that a notebook shows without pyplot: as SVG, in the colours of the page."""

    def _repr_html_(self) -> str:
        from .style import to_svg

        width = self.get_size_inches()[0] * 1.25
        svg = to_svg(self, key=f"notebook-{next(_NUMBERS)}")  # ids of two figures of a page must not meet
        return f"<div style='max-width:{width:.3g}in'>{svg}</div>"
