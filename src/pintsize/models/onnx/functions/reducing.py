"""Along dimensions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .table import function, number, whole


def _over(x: Tensor, axes: Any) -> tuple[int, ...]:
    return tuple(range(x.dim())) if axes is None or len(whole(axes)) == 0 else tuple(whole(axes))


@function
def reduce(x: Tensor, how: str, axes: Any = None, keepdims: bool = True, nothing: bool = False) -> Tensor:
    """Mean, sum, largest and so on; without `axes` along all dimensions, or along none with `nothing`."""
    if axes is None and nothing:
        return x
    over = _over(x, axes)
    if not over:
        return x
    if how == "mean":
        return x.mean(over, keepdims)
    if how == "sum":
        return x.sum(over, keepdims).to(x.dtype)
    if how == "max":
        return x.amax(over, keepdims)
    if how == "min":
        return x.amin(over, keepdims)
    if how == "prod":
        for axis in sorted((one % x.dim() for one in over), reverse=True):
            x = x.prod(axis, keepdims).to(x.dtype)
        return x
    return _norm(x, how, over, keepdims)


def _norm(x: Tensor, how: str, over: tuple[int, ...], keepdims: bool) -> Tensor:
    if how == "l1":
        return x.abs().sum(over, keepdims)
    if how == "l2":
        return x.square().sum(over, keepdims).sqrt()
    if how == "sum_square":
        return x.square().sum(over, keepdims)
    if how == "log_sum":
        return x.sum(over, keepdims).log()
    return torch.logsumexp(x, over, keepdims)


@function
def arg(x: Tensor, largest: bool, axis: int = 0, keepdims: bool = True, last: bool = False) -> Tensor:
    """Where the largest or smallest value is: the first, or the `last`."""
    if last:
        x = x.flip(axis)
    found = x.argmax(axis, keepdims) if largest else x.argmin(axis, keepdims)
    return x.shape[axis] - 1 - found if last else found


@function
def cumsum(x: Tensor, axis: Any, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Sum of all up to here."""
    axis = int(whole(axis)[0])
    x = x.flip(axis) if reverse else x
    made = torch.cumsum(x, axis).to(x.dtype)
    made = made - x if exclusive else made
    return made.flip(axis) if reverse else made


@function
def topk(
    x: Tensor, k: Any, axis: int = -1, largest: bool = True, in_order: bool = True
) -> tuple[Tensor, Tensor]:
    """The largest or smallest values, and where they are."""
    values, places = torch.topk(x, int(number(whole(k)[0])), axis, largest, in_order)
    return values, places


@function
def mean_variance(x: Tensor, axes: Any) -> Tensor:
    """Less the mean, over the deviation."""
    over = tuple(whole(axes))
    mean = x.mean(over, keepdim=True)
    return (x - mean) / ((x * x).mean(over, keepdim=True) - mean * mean).sqrt()


@function
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product."""
    return torch.matmul(a, b)


@function
def gemm(a: Tensor, b: Tensor, c: Any, alpha: float, beta: float, turn_a: bool, turn_b: bool) -> Tensor:
    """Matrix product of whichever is turned, and a sum."""
    made = (a.t() if turn_a else a) @ (b.t() if turn_b else b)
    made = made if alpha == 1 else made * alpha
    return made if c is None else made + (c if beta == 1 else c * beta)


@function
def einsum(*values: Tensor, equation: str) -> Tensor:
    """Einstein's sum."""
    return torch.einsum(equation, *values)
