"""Removing channels and weights."""

from __future__ import annotations

from ..attention_options import AttentionOptions
from . import filter_scores  # noqa: F401 (registers its criteria)
from .attention_run import AttentionResult, prune_by_attention
from .channels import prune
from .depth import DepthStep, drop_blocks, residual_blocks
from .element_criteria import element_criterion
from .importance import Importance, criterion
from .layer_attention import LayerAttentionResult, prune_by_layer_attention
from .masks import MaskStep, masks_of, remove_masks, set_masks
from .overfit import UNREGULARIZED, Unregularized
from .plan import PruneStep, PruningPlan
from .rule_stages import RuleStages
from .rules import Rules
from .scatter import ScatterStep
from .schedules import Polynomial, Rewind, Sparsify, Staged, one_shot
from .staged import Round, StagedPruning
from .statistics import Statistics
from .weights import SparsityResult, sparsify

__all__ = [
    "UNREGULARIZED",
    "AttentionOptions",
    "AttentionResult",
    "DepthStep",
    "Importance",
    "LayerAttentionResult",
    "MaskStep",
    "Polynomial",
    "PruneStep",
    "PruningPlan",
    "Rewind",
    "Round",
    "RuleStages",
    "Rules",
    "ScatterStep",
    "Sparsify",
    "SparsityResult",
    "Staged",
    "StagedPruning",
    "Statistics",
    "Unregularized",
    "criterion",
    "drop_blocks",
    "element_criterion",
    "masks_of",
    "one_shot",
    "prune",
    "prune_by_attention",
    "prune_by_layer_attention",
    "remove_masks",
    "residual_blocks",
    "set_masks",
    "sparsify",
]
