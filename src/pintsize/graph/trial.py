"""The test of a pruning: cut, and see that the smaller network computes what the zeroed original computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..errors import OperationError
from .check import Mismatch, distance, reference, run, tolerance
from .differences import Sizes, first_difference, first_misfit
from .groups import Graph, Removed
from .surgery import Undo, cut, new_attributes
from .trace import Trace, record_training


def attempt(model: nn.Module, example: Any, graph: Graph, removed: Removed) -> tuple[Undo, float]:
    """Cut `removed` out of `model` and compare with the zeroed original.

    Returns:
        How to take the cut back, and the largest difference over the largest output.

    Raises:
        Mismatch: the cut network fails or computes something else; it has been taken back.
    """
    gone = graph.gone(removed)
    attributes = new_attributes(model, graph, gone)
    undo = Undo()
    sizes = Sizes(model)
    with awake(model):
        try:
            # most cuts that fail do so before anything could be compared: the zeroed original runs after them
            cut(model, removed, attributes, undo)
            outputs = run(model, example, sizes)
        except Exception as failure:
            undo()
            raise first_misfit(graph, gone, sizes, failure) from None
        undo()
        expected = reference(model, example, graph, removed, gone)
        undo.again()
        try:
            error = distance(expected, outputs)
            if not error <= tolerance(expected):
                raise Mismatch(None, f"its outputs differ by {error:.2g} of their range")
        except Exception:
            found = first_difference(model, example, graph, removed, gone, undo)
            undo()
            raise found from None
    try:
        _trains(model, example, graph)
    except Mismatch:
        undo()
        raise
    return undo, error


def _trains(model: nn.Module, example: Any, graph: Graph) -> None:
    """What runs in training alone must go on running."""
    if graph.trace.training is None:
        return
    trace = Trace()
    try:
        record_training(model, example, trace)
    except OperationError as error:
        ops = graph.trace.training.ops
        raise Mismatch(ops[min(len(trace.ops), len(ops) - 1)], error.cause.splitlines()[0]) from error


@contextlib.contextmanager
def awake(model: nn.Module) -> Iterator[None]:
    """Parameters that are all zero are random inside: a zero last layer would hide every difference."""
    generator = torch.Generator().manual_seed(0)
    asleep = {}
    for name, parameter in model.named_parameters():
        if parameter.numel() and not parameter.data.reshape(-1)[0] and not parameter.data.any():
            asleep[name] = parameter
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    try:
        yield
    finally:
        now = dict(model.named_parameters())
        for name, parameter in asleep.items():
            parameter.data.zero_()
            now[name].data.zero_()
