"""Number by number."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .sizes import tensor
from .table import FUNCTIONS, function, number

Number = Tensor | float


def _both(a: Any, b: Any) -> tuple[Any, Any]:
    """Two operands; what was computed from shapes becomes a number, or a tensor where the other is."""
    like = a if isinstance(a, Tensor) else b
    return tuple(  # type: ignore[return-value]
        one if isinstance(one, Tensor | int | float) else _plain(one, like) for one in (a, b)
    )


def _plain(value: Any, like: Tensor) -> Any:
    one = number(value)
    return tensor(value, device=like.device) if one is value and hasattr(value, "shape") else one


@function
def add(a: Any, b: Any) -> Any:
    """Sum."""
    a, b = _both(a, b)
    return a + b


@function
def sub(a: Any, b: Any) -> Any:
    """Difference."""
    a, b = _both(a, b)
    return a - b


@function
def mul(a: Any, b: Any) -> Any:
    """Product."""
    a, b = _both(a, b)
    return a * b


@function
def div(a: Any, b: Any) -> Any:
    """Quotient; of integers rounded towards 0, as ONNX has it."""
    a, b = _both(a, b)
    tensors = [one for one in (a, b) if isinstance(one, Tensor)]
    if any(one.is_floating_point() for one in tensors):
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


@function
def pow_(a: Any, b: Any) -> Any:
    """Power; of the first operand's type."""
    a, b = _both(a, b)
    made = torch.pow(a, b)
    return made.to(a.dtype) if isinstance(a, Tensor) else made


@function
def mod(a: Any, b: Any, fmod: bool = False) -> Any:
    """Remainder: with the sign of the divisor, or of the dividend with `fmod`."""
    a, b = _both(a, b)
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def _tensors(*values: Any) -> list[Tensor]:
    like = next(one for one in values if isinstance(one, Tensor))
    return [
        one
        if isinstance(one, Tensor)
        else torch.as_tensor(_plain(one, like), dtype=like.dtype, device=like.device)
        for one in values
    ]


@function
def maximum(*values: Any) -> Tensor:
    """The largest of several."""
    return functools.reduce(torch.maximum, _tensors(*values))


@function
def minimum(*values: Any) -> Tensor:
    """The smallest of several."""
    return functools.reduce(torch.minimum, _tensors(*values))


@function
def total(*values: Any) -> Any:
    """The sum of several."""
    return functools.reduce(add, values)


@function
def average(*values: Any) -> Any:
    """The mean of several."""
    return total(*values) / len(values)


@function
def clip(x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """Between two bounds, either of which may be missing."""
    low, high = number(low), number(high)
    return x if low is None and high is None else torch.clamp(x, low, high)


@function
def where(condition: Any, a: Any, b: Any) -> Tensor:
    """From one tensor or the other."""
    if not isinstance(condition, Tensor):
        condition = tensor(condition, device=next(o for o in (a, b) if isinstance(o, Tensor)).device)
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        a = torch.as_tensor(number(a), device=condition.device)
    a, b = _both(a, b)
    return torch.where(condition.bool(), a, b)


@function
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Negative values times a slope that is spread over the dimensions as NumPy does it."""
    return torch.where(x < 0, x * slope, x)


@function
def hard_sigmoid(x: Tensor, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """A straight line between 0 and 1."""
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


@function
def swish(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Sigmoid of `alpha` times itself."""
    return x * torch.sigmoid(alpha * x)


@function
def thresholded_relu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """0 up to a threshold."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


@function
def shrink(x: Tensor, lambd: float = 0.5, bias: float = 0.0) -> Tensor:
    """0 near 0, all else nearer to it."""
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))


@function
def hardmax(x: Tensor, axis: int = -1) -> Tensor:
    """1 at the first largest value, 0 elsewhere."""
    return F.one_hot(x.argmax(axis), x.shape[axis]).movedim(-1, axis).to(x.dtype)


@function
def round_(x: Tensor) -> Tensor:
    """To the nearest integer, halves to even ones."""
    return torch.round(x)


@function
def is_inf(x: Tensor, positive: bool = True, negative: bool = True) -> Tensor:
    """Whether a value is infinite, of the signs that count."""
    return ((x == torch.inf) & positive) | ((x == -torch.inf) & negative)


@function
def flat_softmax(x: Tensor, axis: int, log: bool = False) -> Tensor:
    """Over all dimensions from `axis` on, as before opset 13."""
    axis = axis % max(x.dim(), 1)
    flat = x.flatten(axis)
    made = torch.log_softmax(flat, -1) if log else torch.softmax(flat, -1)
    return made.view_as(x)


@function
def cast(x: Any, dtype: str, device: torch.device | None = None) -> Tensor:
    """Of another type."""
    made = x if isinstance(x, Tensor) else tensor(x, device=device)
    return made.to(getattr(torch, dtype))


_UNARY = (
    "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "erf", "exp", "floor", "isnan",
    "log", "neg", "reciprocal", "relu", "sigmoid", "sign", "sin", "sinh", "sqrt", "tan", "tanh", "logical_not",
    "bitwise_not",
)  # fmt: skip
_BINARY = (
    "eq", "gt", "lt", "ge", "le", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or",
    "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift",
)  # fmt: skip
FUNCTIONS.update({name: getattr(torch, name) for name in _UNARY})


def _of_two(target: Callable[..., Tensor]) -> Callable[[Any, Any], Tensor]:
    return lambda a, b: target(*_tensors(a, b))


FUNCTIONS.update({name: _of_two(getattr(torch, name)) for name in _BINARY})


@function
def quantize(x: Tensor, scale: float, zero: int, dtype: str) -> Tensor:
    """To the integers of a type."""
    kind = getattr(torch, dtype)
    info = torch.iinfo(kind)
    return (torch.round(x / scale) + zero).clamp(info.min, info.max).to(kind)
