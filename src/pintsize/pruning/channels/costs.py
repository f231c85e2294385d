"""What a network costs as a function of the kept sizes: the targets that a pruning is solved for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from ...graph import ChannelGroup, Graph, Op, Trace, Value
from ...graph.ops import aten
from ...graph.sources import sources

Shapes = Mapping[str, tuple[int, ...]]
"""Parameter name → shape that is kept of it."""
Cost = Callable[[Shapes], float]
"""Any cost of a network in terms of the shapes of its parameters, e.g. a latency table."""

_PRODUCTS = (aten.mm, aten.bmm, aten.addmm, aten.baddbmm)


def kept_shapes(
    graph: Graph, groups: Sequence[ChannelGroup], removed: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters if `removed[i]` units of `groups[i]` go."""
    shapes = {name: list(value.shape) for name, value in graph.trace.parameters.items()}
    for group, count in zip(groups, removed, strict=True):
        if count:
            for member in group.members:
                shapes[member.parameter][member.dim] -= count * member.indices.shape[1]
    return {name: tuple(shape) for name, shape in shapes.items()}


def parameters(trace: Trace) -> Cost:
    """Number of parameters; shared ones count once."""
    names = [name for name, value in trace.parameters.items() if value.is_parameter]
    return lambda shapes: float(sum(math.prod(shapes[name]) for name in names))


def weight_bytes(trace: Trace) -> Cost:
    """Bytes of the parameters at their precision."""
    sizes = {name: value.dtype.itemsize for name, value in trace.parameters.items() if value.is_parameter}
    return lambda shapes: float(sum(math.prod(shapes[name]) * size for name, size in sizes.items()))


def macs(trace: Trace) -> Cost:
    """Multiply–accumulate operations per image of convolutions and products with weights.

    Products of two activations (attention) scale with the heads that are kept.
    """
    batch = next((v.shape[0] for v in trace.inputs if v.shape), 1)
    terms: list[tuple[float, str]] = []
    products: list[tuple[float, Op]] = []
    origin = sources(trace)
    for op in trace.ops:
        packet = op.func.overloadpacket
        if packet is aten.convolution:
            weight, output = op.args[1], op.outputs[0]
            transposed = op.args[6]
            positions = (op.args[0] if transposed else output).shape[2:].numel() * output.shape[0] / batch
            if weight in origin:
                terms.append((positions, origin[weight]))
        elif packet in _PRODUCTS:
            left, right = op.args[-2], op.args[-1]
            if right in origin:
                terms.append((left.shape[:-1].numel() / batch, origin[right]))
            elif left in origin:
                terms.append((right.shape[-1] / batch, origin[left]))
            else:
                products.append((left.shape.numel() * right.shape[-1] / batch, op))
        elif "scaled_dot_product" in str(op.func):
            query, key = op.args[:2]
            products.append((2 * query.shape.numel() * key.shape[-2] / batch, op))
    fixed = sum(amount for amount, _ in products)

    def cost(shapes: Shapes) -> float:
        return fixed + sum(positions * math.prod(shapes[name]) for positions, name in terms)

    return cost


def weight_names(trace: Trace) -> dict[Value, str]:
    """Values that are a parameter up to views, with its name."""
    names = {value: name for name, value in trace.parameters.items()}
    for op in trace.ops:
        if len(op.inputs) == 1 and op.inputs[0] in names:
            for output in op.outputs:
                if output.shape.numel() == op.inputs[0].shape.numel():
                    names.setdefault(output, names[op.inputs[0]])
    return names


def total_channels(groups: Sequence[ChannelGroup]) -> int:
    """Prunable channels: units times the channels each stands for in its first layer."""
    return sum(group.size * group.channels for group in groups)
