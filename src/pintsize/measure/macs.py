"""Multiply–accumulates of the ATen ops that multiply matrices; all others count as none, as is usual.

Shape letters: `m k n` of a product [m,k]·[k,n], `L S E` queries, keys and head width of attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch

Shape = Sequence[int]
Rule = Callable[[list[Shape], Shape, tuple[Any, ...]], int]
"""(shapes of the tensor arguments in order, shape of the first output, all arguments) → MACs."""

aten = torch.ops.aten


def _convolution(inputs: list[Shape], output: Shape, args: tuple[Any, ...]) -> int:
    # weight [C_out, C_in/groups, *kernel], transposed [C_in, C_out/groups, *kernel]: either way each
    # element of one side meets weight.shape[1:] of the other.
    transposed = bool(args[6])
    return prod(inputs[0] if transposed else output) * prod(inputs[1][1:])


def _matrix(inputs: list[Shape], output: Shape, args: tuple[Any, ...]) -> int:
    """Products whose last input is [..., k, n] or [k]: every output element sums k products."""
    del args
    return prod(output) * (inputs[-1][-2] if len(inputs[-1]) > 1 else inputs[-1][-1])


def _added_batches(inputs: list[Shape], output: Shape, args: tuple[Any, ...]) -> int:
    del output, args
    return prod(inputs[1]) * inputs[2][-1]


def _attention(inputs: list[Shape], output: Shape, args: tuple[Any, ...]) -> int:
    del output, args
    query, key, value = inputs[:3]
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(inputs: list[Shape], output: Shape, args: tuple[Any, ...]) -> int:
    """One direction of one layer: both weights are read once a time step and sequence."""
    del output, args
    return prod(inputs[0][:-1]) * (prod(inputs[1]) + prod(inputs[2]))


def _bilinear(inputs: list[Shape], output: Shape, args: tuple[Any, ...]) -> int:
    del output, args
    return prod(inputs[0][:-1]) * prod(inputs[1])


RULES: dict[Any, Rule] = {
    aten.convolution: _convolution,
    aten._convolution: _convolution,
    **dict.fromkeys(
        (
            aten.mm,
            aten.bmm,
            aten.mv,
            aten.dot,
            aten.vdot,
            aten.addmm,
            aten.baddbmm,
            aten.addmv,
            aten._addmm_activation,
        ),
        _matrix,
    ),
    aten.addbmm: _added_batches,
    **dict.fromkeys(
        (
            aten._scaled_dot_product_flash_attention_for_cpu,
            aten._scaled_dot_product_flash_attention,
            aten._scaled_dot_product_efficient_attention,
            aten._scaled_dot_product_cudnn_attention,
        ),
        _attention,
    ),
    aten.mkldnn_rnn_layer: _recurrent,
    aten._trilinear: _bilinear,
}
"""By op packet, so that every overload (in-place, out) counts alike."""


def count(func: torch._ops.OpOverload, inputs: list[Shape], output: Shape, args: tuple[Any, ...]) -> int:
    """MACs of one call over the whole batch; 0 for an op that multiplies no matrices."""
    rule = RULES.get(func.overloadpacket)
    return rule(inputs, output, args) if rule else 0
