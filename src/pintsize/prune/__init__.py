"""Removing channels and weights."""

from __future__ import annotations

from . import filter_scores  # noqa: F401 (registers its criteria)
from .channels import prune
from .element_criteria import element_criterion
from .importance import Importance, criterion
from .masks import MaskStep, masks_of, remove_masks, set_masks
from .plan import PruneStep, PruningPlan
from .statistics import Statistics
from .weights import SparsityResult, sparsify

__all__ = [
    "Importance",
    "MaskStep",
    "PruneStep",
    "PruningPlan",
    "SparsityResult",
    "Statistics",
    "criterion",
    "element_criterion",
    "masks_of",
    "prune",
    "remove_masks",
    "set_masks",
    "sparsify",
]
