"""Branches that are always the same."""

from __future__ import annotations

import dataclasses

from ..building import Op
from .shapes import from_file
from .table import operator


@operator("If")
def branch(op: Op) -> None:
    """The branch that is taken, in the node's place.

    Raises:
        UnsupportedOp: which one depends on the data.
    """
    condition = op.value(0)
    if condition.kind == "tensor":
        raise op.unsupported("which branch is taken depends on the data")
    taken = bool(condition.data.reshape(-1)[0])
    graph = op.attribute("then_branch" if taken else "else_branch")
    builder = op.builder
    for value in graph.initializers.values():
        builder.hold(value.name, from_file(value.const_value))
    for node in graph:
        builder.carry_out(node)
    for name, value in zip(op.outputs, graph.outputs, strict=True):
        builder.values[name] = dataclasses.replace(builder.values[value.name])
