"""Whether attention pruning can be done at all: what can be told before the network is trained."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from ...graph import analyse
from ...quant import fold_batchnorm
from ...quant.ptq.calibrate import planned
from ...recipe.attention import AttentionOptions
from ...storage.record import check_order
from ..channels.plan import PruneStep
from . import sites as attention_sites
from .ranges import bits_of


def check_attention(model: nn.Module, example: Any, options: AttentionOptions) -> None:
    """Find the places for attention, and for the quantizers where there are any; `model` is unchanged.

    Args:
        model: of any weights.
        example: an input.
        options: of the pruning.

    Raises:
        IllegalOrder: `model` may not be pruned any more.
        InputError: no convolution is left to attend to, or a pattern in `ignore` matches nothing.
        UnsupportedOp: an operation that pruning or quantization does not understand.
    """
    check_order(model, PruneStep)
    attention_sites.find(model, analyse(model, example), options)
    if options.weights is not None:  # no calibration: values of an untrained network say nothing
        work = copy.deepcopy(model)
        fold_batchnorm(work, example)
        planned(work, example, bits_of(model, example, options), ignore=(), edges=None, outputs=False)
