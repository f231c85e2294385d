"""Several nodes that were one layer: a bias that is added afterwards, activations that are written out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..building import Op, Value
from ..program import Ref, Step

_LAYERS = ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Linear")


def made_by(op: Op, name: str) -> Step | None:
    """The step that gave a value which nothing but this node, or what leads to it, reads."""
    builder = op.builder
    if builder.readers.get(name, 0) != 1:
        return None
    return next((step for step in reversed(builder.steps) if step.outputs == (name,)), None)


def bias_joined(op: Op) -> bool:
    """Give a constant to the layer in front that has no bias yet."""
    for one, other in ((0, 1), (1, 0)):
        value, added = op.value(one), op.value(other)
        if value.kind != "tensor" or added.kind != "constant" or (op.type == "Sub" and one):
            continue
        step = made_by(op, value.name)
        if step is None or step.kind != "module":
            continue
        spec = op.builder.modules[step.target]
        if spec["class"] not in _LAYERS or spec["options"].get("bias", True):
            continue
        if sum(s.target == step.target for s in op.builder.steps) != 1:
            continue
        bias = _bias(spec, added.data, value.data)
        if bias is None:
            continue
        spec["options"]["bias"] = True
        op.builder.state[f"{step.target}.bias"] = -bias if op.type == "Sub" else bias
        _renamed(op, step, value)
        return True
    return False


def _bias(spec: dict[str, Any], added: Tensor, made: Tensor) -> Tensor | None:
    channels = spec["options"].get("out_channels", spec["options"].get("out_features"))
    axis = made.dim() - 1 if spec["class"] == "Linear" else 1
    sizes = [1] * (made.dim() - added.dim()) + list(added.shape)
    wanted = [channels if dim == axis else 1 for dim in range(made.dim())]
    if sizes == wanted:
        return added.reshape(-1).clone()
    return added.reshape(-1).repeat(channels) if added.numel() == 1 and added.dim() <= made.dim() else None


def _renamed(op: Op, step: Step, value: Value) -> None:
    """Let `step` give this node's result."""
    builder, name = op.builder, op.outputs[0]
    builder.steps[builder.steps.index(step)] = dataclasses.replace(step, outputs=(name,))
    builder.values[name] = Value(name, "tensor", value.data)


def product_fused(op: Op) -> bool:
    """SiLU, Hardswish, GELU and Mish, from their products."""
    factors = list(_factors(op))
    scale = math.prod(one for one in factors if isinstance(one, float))
    values = [one for one in factors if not isinstance(one, float)]
    if len(values) != 2 or any(one is None for one in values):
        return False
    for own, other in (values, values[::-1]):
        spent: list[str] = []
        kind = _activation(op, own, other, scale, spent)
        if kind is not None:
            for name in spent:
                _forgotten(op, name)
            op.module(kind, {}, {}, op.builder.values[own])
            return True
    return False


def _factors(op: Op) -> Iterator[Any]:
    """What is multiplied: names of values, and numbers."""
    for index in (0, 1):
        given = op.operand(index)
        if isinstance(given, int | float):
            yield 1 / given if op.type == "Div" and index and given else float(given)
        elif op.type == "Div" and index:
            yield None
        else:
            yield from _inner(op, given.name) if given.kind == "tensor" else (None,)


def _inner(op: Op, name: str) -> Iterator[Any]:
    step = made_by(op, name)
    if step is None or step.kind != "function" or step.target not in ("mul", "div"):
        yield name
        return
    a, b = step.args
    numbers = [one for one in (a, b) if isinstance(one, int | float)]
    inner = [one for one in (a, b) if isinstance(one, Ref)]
    if step.target == "div" and not (numbers and b == numbers[0] and b):
        yield name
    elif len(numbers) == 1 and len(inner) == 1:
        yield 1 / numbers[0] if step.target == "div" else float(numbers[0])
        yield inner[0].name
    elif len(inner) == 2:
        yield from (one.name for one in inner)
    else:
        yield name


def _activation(op: Op, own: str, other: str, scale: float, spent: list[str]) -> str | None:
    """Which activation of `own` the product with `other` is; the values in between are `spent`."""
    made = _made(op, other)
    if made is None:
        return None
    kind, step = made
    spent.append(other)
    source = step.args[0]
    if source == Ref(own) and abs(scale - 1) < 1e-6:
        return {"Sigmoid": "SiLU", "Hardsigmoid": "Hardswish"}.get(kind)
    if not isinstance(source, Ref):
        source = step.args[1] if len(step.args) > 1 and isinstance(step.args[1], Ref) else None
    behind = _made(op, source.name) if isinstance(source, Ref) else None
    if behind is None:
        return None
    inner, before = behind
    spent.append(source.name)
    if (
        kind == "ReLU6"
        and inner == "add"
        and set(before.args) == {Ref(own), 3.0}
        and abs(scale - 1 / 6) < 1e-6
    ):
        return "Hardswish"
    if kind == "Tanh" and inner == "Softplus" and before.args == (Ref(own),) and abs(scale - 1) < 1e-6:
        return "Mish"
    if kind == "add" and 1.0 in step.args and inner == "erf" and abs(scale - 0.5) < 1e-6:
        return "GELU" if _halved_root(op, before.args[0], own, spent) else None
    return None


def _halved_root(op: Op, value: Any, own: str, spent: list[str]) -> bool:
    """Whether a value is `own` over the root of 2."""
    made = _made(op, value.name) if isinstance(value, Ref) else None
    if made is None or made[0] not in ("mul", "div") or Ref(own) not in made[1].args:
        return False
    spent.append(value.name)
    number = next((one for one in made[1].args if isinstance(one, int | float)), 0.0)
    return abs((number if made[0] == "div" else 1 / (number or 1)) - math.sqrt(2)) < 1e-4


def _made(op: Op, name: str) -> tuple[str, Step] | None:
    step = made_by(op, name)
    if step is None:
        return None
    return (op.builder.modules[step.target]["class"] if step.kind == "module" else step.target), step


def _forgotten(op: Op, name: str) -> None:
    builder = op.builder
    for step in builder.steps:
        if step.outputs == (name,) and step.kind == "module":
            del builder.modules[step.target]
            builder.paths.give_back(step.target)
    builder.steps = [step for step in builder.steps if step.outputs != (name,)]
