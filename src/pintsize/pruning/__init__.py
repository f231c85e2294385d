"""Removing channels and weights."""

from __future__ import annotations

from ..recipe.attention import AttentionOptions
from .attention.layerwise import LayerAttentionResult, prune_by_layer_attention
from .attention.run import AttentionResult, prune_by_attention
from .channels import filter_scores  # noqa: F401 (registers its criteria)
from .channels.depth import DepthStep, drop_blocks, residual_blocks
from .channels.importance import Importance, criterion
from .channels.plan import PruneStep, PruningPlan
from .channels.removal import prune
from .channels.scatter import ScatterStep
from .channels.statistics import Statistics
from .rules.language import Rules
from .rules.run import prune_by_rules
from .rules.stages import RuleStages
from .scans.importance import layer_importance
from .scans.scan import Sensitivity, sensitivity
from .staged.overfit import UNREGULARIZED, Unregularized
from .staged.rounds import prune_rounds
from .staged.staged import Round, StagedPruning
from .weights.criteria import element_criterion
from .weights.masks import MaskStep, masks_of, remove_masks, set_masks
from .weights.schedules import Polynomial, Rewind, Sparsify, Staged, one_shot
from .weights.sparsity import SparsityResult, sparsify

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
    "Sensitivity",
    "Sparsify",
    "SparsityResult",
    "Staged",
    "StagedPruning",
    "Statistics",
    "Unregularized",
    "criterion",
    "drop_blocks",
    "element_criterion",
    "layer_importance",
    "masks_of",
    "one_shot",
    "prune",
    "prune_by_attention",
    "prune_by_layer_attention",
    "prune_by_rules",
    "prune_rounds",
    "remove_masks",
    "residual_blocks",
    "sensitivity",
    "set_masks",
    "sparsify",
]
