"""Hand-written structures that a channel pruning must understand, each with its groups worked out by hand."""

from __future__ import annotations

from . import attention, convolutions, pieces, places, shapes, weights  # noqa: F401 (they register their cases)
from .case import CASES, Case

__all__ = ["CASES", "Case"]
