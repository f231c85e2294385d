"""Number by number: activations as modules, all else as functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..building import Op
from .fusing import bias_joined, product_fused
from .sizes import plain
from .table import operator
from .types import torch_type

_UNARY = {
    "Abs": "abs", "Acos": "acos", "Acosh": "acosh", "Asin": "asin", "Asinh": "asinh", "Atan": "atan", "Atanh": "atanh",
    "Ceil": "ceil", "Cos": "cos", "Cosh": "cosh", "Erf": "erf", "Exp": "exp", "Floor": "floor", "IsNaN": "isnan",
    "Log": "log", "Neg": "neg", "Reciprocal": "reciprocal", "Round": "round", "Sign": "sign", "Sin": "sin",
    "Sinh": "sinh", "Sqrt": "sqrt", "Tan": "tan", "Not": "logical_not", "BitwiseNot": "bitwise_not",
}  # fmt: skip
_BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow"}
_LOGICAL = {
    "Equal": "eq", "Greater": "gt", "Less": "lt", "GreaterOrEqual": "ge", "LessOrEqual": "le", "And": "logical_and",
    "Or": "logical_or", "Xor": "logical_xor", "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor",
}  # fmt: skip
_SEVERAL = {"Max": "maximum", "Min": "minimum", "Sum": "total", "Mean": "average"}


@operator(*_UNARY)
def unary(op: Op) -> None:
    """A function of one tensor."""
    op.call(_UNARY[op.type], op.tensor(0))


@operator(*_BINARY)
def binary(op: Op) -> None:
    """Arithmetic; a constant that is added to a layer without a bias becomes one."""
    if op.type in ("Add", "Sub") and bias_joined(op):
        return
    if op.type in ("Mul", "Div") and product_fused(op):
        return
    op.call(_BINARY[op.type], op.operand(0), op.operand(1))


@operator(*_LOGICAL)
def logical(op: Op) -> None:
    """Comparison and logic."""
    op.call(_LOGICAL[op.type], op.value(0), op.value(1))


@operator("BitShift")
def shift(op: Op) -> None:
    """Bits moved."""
    way = "left" if op.attribute("direction") == "LEFT" else "right"
    op.call(f"bitwise_{way}_shift", op.value(0), op.value(1))


@operator("Mod")
def mod(op: Op) -> None:
    """Remainder."""
    op.call("mod", op.operand(0), op.operand(1), fmod=bool(op.attribute("fmod", 0)))


@operator(*_SEVERAL)
def several(op: Op) -> None:
    """Of several tensors."""
    if len(op.inputs) == 1:
        op.alias(op.value(0))
    elif op.type in ("Max", "Min") and _bound(op):
        low, high = (op.operand(1), None) if op.type == "Max" else (None, op.operand(1))
        op.call("clip", op.value(0), low, high)
    else:
        op.call(_SEVERAL[op.type], *(op.value(k) for k in range(len(op.inputs))))


def _bound(op: Op) -> bool:
    return len(op.inputs) == 2 and op.value(0).kind == "tensor" and isinstance(op.operand(1), int | float)


@operator("Where")
def where(op: Op) -> None:
    """From one tensor or the other."""
    a, b = op.operand(1), op.operand(2)
    if not isinstance(a, int | float) or not isinstance(b, int | float):
        op.call("where", op.value(0), a, b)
    else:
        op.call("where", op.value(0), op.value(1), op.value(2))


@operator("Clip")
def clip(op: Op) -> None:
    """Between two bounds: attributes up to opset 6, inputs from 11 on."""
    bounds: list[Any] = []
    for index, name in ((1, "min"), (2, "max")):
        given = op.attribute(name)
        if given is None and op.has(index):
            given = op.operand(index)
        bounds.append(given)
    low, high = bounds
    if low == 0 and high == 6:
        op.module("ReLU6", {}, {}, op.value(0))
    elif low == 0 and (high is None or (isinstance(high, float) and high > 1e38)):
        op.module("ReLU", {}, {}, op.value(0))
    else:
        op.call("clip", op.tensor(0), low, high)


_MODULES = {
    "Relu": "ReLU", "Sigmoid": "Sigmoid", "Tanh": "Tanh", "Softplus": "Softplus", "Softsign": "Softsign",
    "Mish": "Mish", "HardSwish": "Hardswish",
}  # fmt: skip


@operator(*_MODULES)
def activation(op: Op) -> None:
    """An activation without parameters."""
    if op.is_constant(0) or not op.value(0).data.is_floating_point():
        name = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}.get(op.type)
        if name is not None:
            op.call(name, op.tensor(0))
            return
    op.module(_MODULES[op.type], {}, {}, op.value(0))


@operator("LeakyRelu")
def leaky_relu(op: Op) -> None:
    """Negative values times a slope."""
    op.module("LeakyReLU", {"negative_slope": op.attribute("alpha", 0.01)}, {}, op.value(0))


@operator("Elu", "Celu")
def elu(op: Op) -> None:
    """An exponential below 0."""
    op.module(op.type.upper(), {"alpha": op.attribute("alpha", 1.0)}, {}, op.value(0))


@operator("Selu")
def selu(op: Op) -> None:
    """A scaled exponential below 0; other numbers than the paper's are written out."""
    alpha, gamma = op.attribute("alpha", 1.67326), op.attribute("gamma", 1.0507)
    if abs(alpha - 1.6732632) < 1e-4 and abs(gamma - 1.0507009) < 1e-4:
        op.module("SELU", {}, {}, op.value(0))
    else:
        below = op.module("ELU", {"alpha": alpha}, {}, op.value(0), between=True)
        op.call("mul", below, gamma)


@operator("Gelu")
def gelu(op: Op) -> None:
    """By the error function, or (`approximate`) tanh."""
    op.module("GELU", {"approximate": op.attribute("approximate", "none")}, {}, op.value(0))


@operator("Swish")
def swish(op: Op) -> None:
    """Itself times its sigmoid."""
    alpha = op.attribute("alpha", 1.0)
    if alpha == 1:
        op.module("SiLU", {}, {}, op.value(0))
    else:
        op.call("swish", op.value(0), alpha)


@operator("HardSigmoid")
def hard_sigmoid(op: Op) -> None:
    """A line between 0 and 1; with a slope of 1/6 it is torch's own."""
    alpha, beta = op.attribute("alpha", 0.2), op.attribute("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        op.module("Hardsigmoid", {}, {}, op.value(0))
    else:
        op.call("hard_sigmoid", op.value(0), alpha, beta)


@operator("ThresholdedRelu")
def thresholded_relu(op: Op) -> None:
    """0 up to a threshold."""
    op.call("thresholded_relu", op.value(0), op.attribute("alpha", 1.0))


@operator("Shrink")
def shrink(op: Op) -> None:
    """0 near 0."""
    op.call("shrink", op.value(0), op.attribute("lambd", 0.5), op.attribute("bias", 0.0))


@operator("PRelu")
def prelu(op: Op) -> None:
    """Negative values times learned slopes, one for each channel."""
    slope = op.value(1)
    if slope.kind == "constant" and _per_channel(slope.data, op.rank()):
        weights = {"weight": slope.data.reshape(-1)}
        op.module("PReLU", {"num_parameters": slope.data.numel()}, weights, op.value(0))
    else:
        op.call("prelu", op.value(0), slope)


def _per_channel(slope: Tensor, rank: int) -> bool:
    """Whether a constant is spread over dimension 1 alone."""
    lead = rank - slope.dim()
    sizes = [1] * max(lead, 0) + list(slope.shape)
    return slope.numel() == 1 or (rank > 1 and len(sizes) == rank and slope.numel() == sizes[1])


@operator("Softmax", "LogSoftmax", "Hardmax")
def softmax(op: Op) -> None:
    """Along one dimension; before opset 13 over all from it on."""
    axis = op.attribute("axis", -1 if op.version >= 13 else 1)
    last = axis % max(op.rank(), 1) == op.rank() - 1
    if op.type == "Hardmax":
        op.call("hardmax", op.value(0), axis)
    elif op.version >= 13 or last:
        kind = "Softmax" if op.type == "Softmax" else "LogSoftmax"
        op.module(kind, {"dim": axis}, {}, op.value(0))
    else:
        op.call("flat_softmax", op.value(0), axis, log=op.type == "LogSoftmax")


@operator("IsInf")
def is_inf(op: Op) -> None:
    """Infinite values."""
    op.call(
        "is_inf",
        op.value(0),
        bool(op.attribute("detect_positive", 1)),
        bool(op.attribute("detect_negative", 1)),
    )


@operator("Cast", "CastLike")
def cast(op: Op) -> None:
    """Of another type; nothing where it is that already."""
    kind = torch_type(op)
    data = op.value(0).data
    if isinstance(data, Tensor) and data.dtype == getattr(torch, kind):
        op.alias(op.value(0))
    else:
        op.call("cast", op.value(0) if isinstance(data, Tensor) else plain(op, 0), kind)


@operator("Identity")
def identity(op: Op) -> None:
    """Itself."""
    op.alias(op.value(0))


@operator("Dropout")
def dropout(op: Op) -> None:
    """Nothing, until the network is trained again."""
    ratio = op.attribute("ratio")
    if ratio is None and op.is_constant(1):
        ratio = float(op.value(1).data)
    if op.value(0).kind != "tensor":
        op.alias(op.value(0))
    else:
        op.module("Dropout", {"p": 0.5 if ratio is None else float(ratio)}, {}, op.value(0))
