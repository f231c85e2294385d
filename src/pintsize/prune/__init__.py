"""Removing channels and weights."""

from __future__ import annotations

from .channels import prune
from .importance import Importance, criterion
from .plan import PruneStep, PruningPlan
from .statistics import Statistics

__all__ = ["Importance", "PruneStep", "PruningPlan", "Statistics", "criterion", "prune"]
