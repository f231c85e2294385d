"""Which parameter dimensions of a network belong together."""

from __future__ import annotations

from typing import Any

from torch import nn

from .groups import ChannelGroup, Graph, Member, Removed
from .groups import analyse as _analyse
from .labels import Labels
from .ops import rule
from .trace import Op, Trace, Value, record

__all__ = [
    "ChannelGroup", "Graph", "Labels", "Member", "Op", "Removed", "Trace", "Value",
    "analyse", "channel_groups", "record", "rule",
]  # fmt: skip


def analyse(model: nn.Module, example: Any) -> Graph:
    """Trace `model` on `example`, find its channel groups, and try which of them its forward lets shrink."""
    from .probe import settle

    graph = _analyse(model, example)
    settle(model, example, graph)
    return graph


def channel_groups(model: nn.Module, example: Any) -> list[ChannelGroup]:
    """The groups of channels that can be removed from `model`, in the order of its parameters.

    Args:
        model: any module; unchanged.
        example: an input batch, or a tuple of inputs.

    Returns:
        One group per set of channels that the same parameters share. Channels that must stay
        (outputs of the network, sizes written into its code) are in no group.

    Raises:
        OperationError: the model's forward fails on `example`.
    """
    return analyse(model, example).groups
