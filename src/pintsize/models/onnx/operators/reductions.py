"""Reductions along dimensions, and the places of extremes."""

from __future__ import annotations

from ..building import Op
from .table import operator

_HOW = {
    "ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod",
    "ReduceL1": "l1", "ReduceL2": "l2", "ReduceSumSquare": "sum_square", "ReduceLogSum": "log_sum",
    "ReduceLogSumExp": "log_sum_exp",
}  # fmt: skip


@operator(*_HOW)
def reduce(op: Op) -> None:
    """Along dimensions; those are an attribute in older files and an input in newer ones."""
    nothing = bool(op.attribute("noop_with_empty_axes", 0))
    axes = op.numbers(1, "axes") or None
    keep = bool(op.attribute("keepdims", 1))
    op.call("reduce", op.value(0), _HOW[op.type], axes, keepdims=keep, nothing=nothing)


@operator("ArgMax", "ArgMin")
def arg(op: Op) -> None:
    """Where an extreme is."""
    op.call(
        "arg",
        op.value(0),
        op.type == "ArgMax",
        op.attribute("axis", 0),
        keepdims=bool(op.attribute("keepdims", 1)),
        last=bool(op.attribute("select_last_index", 0)),
    )


@operator("CumSum")
def cumsum(op: Op) -> None:
    """Sums of all up to here."""
    exclusive, reverse = bool(op.attribute("exclusive", 0)), bool(op.attribute("reverse", 0))
    op.call("cumsum", op.value(0), op.numbers(1), exclusive=exclusive, reverse=reverse)


@operator("TopK")
def topk(op: Op) -> None:
    """The largest values, and where they are."""
    op.call(
        "topk",
        op.value(0),
        op.numbers(1, "k"),
        axis=op.attribute("axis", -1),
        largest=bool(op.attribute("largest", 1)),
        in_order=bool(op.attribute("sorted", 1)),
    )
