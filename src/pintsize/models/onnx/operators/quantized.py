"""Files that are quantized already: read as the network in floating point that they were made from.

A quantizer of an activation is left out, weights are what their integers stand for, and layers of integers are the same
layers in floating point.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..building import Op, Value
from .table import OPERATORS, operator

_SAME = {
    "QLinearAdd": "Add", "QLinearMul": "Mul", "QLinearSigmoid": "Sigmoid", "QLinearLeakyRelu": "LeakyRelu",
    "QLinearGlobalAveragePool": "GlobalAveragePool", "QLinearAveragePool": "AveragePool", "QLinearSoftmax": "Softmax",
}  # fmt: skip

_LAYERS = ("Conv", "Linear", "BatchNorm")


@operator("QuantizeLinear")
def quantize(op: Op) -> None:
    """Nothing; but where the file gives out integers, they are made."""
    value = op.value(0)
    scale, zero = op.constant(1), op.constant(2)
    if op.outputs[0] not in op.builder.given_out or value.kind == "constant":
        op.builder.quantized = True
        _cut_at_zero(op, value, zero)
        return
    assert scale is not None
    kind = str(zero.dtype).removeprefix("torch.") if zero is not None else "uint8"
    op.call("quantize", value, scale.item(), 0 if zero is None else int(zero), kind)


def _cut_at_zero(op: Op, value: Value, zero: Tensor | None) -> None:
    """A ReLU in front of integers that begin at 0 is left out by those who quantize: here it is again."""
    begins = zero is None or (zero.numel() == 1 and int(zero) == torch.iinfo(zero.dtype).min)
    step = next((one for one in reversed(op.builder.steps) if value.name in one.outputs), None)
    layer = step is not None and (
        step.target in ("add", "sub", "mul")
        or (step.kind == "module" and op.builder.modules[step.target]["class"].startswith(_LAYERS))
    )
    if value.kind == "tensor" and begins and layer:
        op.module("ReLU", {}, {}, value)
    else:
        op.alias(value)


@operator("DequantizeLinear")
def dequantize(op: Op) -> None:
    """What the integers of a weight, or of an input, stand for; nothing between layers."""
    value = op.value(0)
    if value.data.is_floating_point():
        op.alias(value)
        return
    scale, zero = op.constant(1), op.constant(2)
    assert scale is not None
    axis = op.attribute("axis", 1)
    if value.kind == "constant":
        op.builder.quantized = True
        op.keep(_meant(value.data, scale, zero, axis), learned=True)
    else:
        made = op.between("cast", value, "float32")
        shifted = op.between("sub", made, float(zero)) if zero is not None and int(zero) else made
        op.call("mul", shifted, scale.item())


@operator("DynamicQuantizeLinear")
def dynamic(op: Op) -> None:
    """The values themselves, with a scale of 1."""
    op.builder.quantized = True
    name, scale, zero = op.outputs
    builder = op.builder
    builder.values[name] = op.value(0)
    builder.values[scale] = Value(scale, "constant", torch.tensor(1.0))
    builder.values[zero] = Value(zero, "constant", torch.tensor(0, dtype=torch.uint8))


@operator("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
def layer(op: Op) -> None:
    """The layer in floating point."""
    op.builder.quantized = True
    whole = op.type.startswith("QLinear")
    places = (0, 3, 4, 5) if whole else (0, 1, None, 3)
    weight = op.value(places[1])
    scale = op.constant(places[2]) if places[2] is not None else torch.tensor(1.0)
    zero = op.constant(places[3])
    assert scale is not None
    conv = "Conv" in op.type
    axis = 0 if conv else -1
    if weight.kind == "constant":
        weight = _constant(op, f"{weight.name}@float", _meant(weight.data, scale, zero, axis))
    inputs: list[Value | None] = [op.value(0), weight]
    end = op.constant(7) if whole else None
    if op.has(8):
        bias, given = op.constant(8), op.constant(1)
        assert bias is not None
        assert given is not None
        inputs.append(_constant(op, f"{op.value(8).name}@float", bias.float() * given * scale.reshape(-1)))
    _as(op, "Conv" if conv else "MatMul", inputs)
    if whole:
        _cut_at_zero(op, op.builder.values[op.outputs[0]], end)


@operator(*_SAME)
def same(op: Op) -> None:
    """The operator in floating point."""
    op.builder.quantized = True
    if op.type not in ("QLinearAdd", "QLinearMul"):
        _as(op, _SAME[op.type], [op.value(0)])
        return
    end = op.constant(7)
    _as(op, _SAME[op.type], [op.value(0), op.value(3)])
    _cut_at_zero(op, op.builder.values[op.outputs[0]], end)


@operator("QLinearConcat")
def concat(op: Op) -> None:
    """The operator in floating point."""
    op.builder.quantized = True
    _as(op, "Concat", [op.value(k) for k in range(2, len(op.inputs), 3)])


@operator("QGemm")
def gemm(op: Op) -> None:
    """The layer in floating point."""
    op.builder.quantized = True
    given, scale, zero = op.constant(1), op.constant(4), op.constant(5)
    assert given is not None
    assert scale is not None
    axis = 0 if op.attribute("transB", 0) else -1
    weight = _constant(op, f"{op.value(3).name}@float", _meant(op.value(3).data, scale, zero, axis))
    inputs: list[Value | None] = [op.value(0), weight]
    if op.has(6):
        bias = op.value(6).data.float() * given * scale.reshape(-1)
        inputs.append(_constant(op, f"{op.value(6).name}@float", bias))
    _as(op, "Gemm", inputs)


def _as(op: Op, kind: str, inputs: list[Value | None]) -> None:
    op.type, op.inputs = kind, inputs
    OPERATORS[kind](op)


def _constant(op: Op, name: str, data: Tensor) -> Value:
    return op.builder.values.setdefault(name, Value(name, "constant", data, learned=True))


def _meant(whole: Tensor, scale: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """The numbers that integers stand for."""

    def spread(one: Tensor) -> Tensor:
        own = axis % max(whole.dim(), 1)
        return (
            one.float().reshape([-1 if d == own else 1 for d in range(whole.dim())])
            if one.numel() > 1
            else one.float()
        )

    apart = whole.float() if zero is None else whole.float() - spread(zero)
    return apart * spread(scale)
