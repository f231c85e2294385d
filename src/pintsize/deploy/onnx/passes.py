"""Rewrites that let ONNX Runtime and OpenVINO pick integer kernels; every one is exact.

Which placements the runtimes fuse was found on small graphs by reading the optimised graph back:
ReduceMean, Split, Flatten and others fall back to float unless rewritten here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import UnsupportedOp
from .trace import DOMAIN, QUANTIZER

if TYPE_CHECKING:
    import onnx_ir as ir

_INTEGER_TYPES = ((0, 255, "UINT8"), (-128, 127, "INT8"), (0, 65535, "UINT16"), (-32768, 32767, "INT16"))
_MOVES = {  # ops whose outputs are values of their first input (or zero): its scale stays exact behind them
    "Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Identity", "MaxPool", "Flatten", "Split",
    "Gather", "DepthToSpace", "SpaceToDepth", "Expand", "Tile", "ReduceMax", "Resize", "Pad",
}  # fmt: skip
_REPEAT_BEHIND = {  # those that ONNX Runtime does not look through on its way to the next quantizer
    "Flatten", "Split", "Gather", "DepthToSpace", "SpaceToDepth", "Expand", "Tile", "ReduceMax", "Resize",
    "Pad", "Concat",
}  # fmt: skip


@dataclass(frozen=True)
class Range:
    """What a quantizer does: x → clip(round(x / scale) + zero_point, qmin, qmax), and back."""

    scale: np.ndarray[Any, np.dtype[np.float32]]
    zero_point: np.ndarray[Any, np.dtype[np.int64]]
    qmin: int
    qmax: int
    axis: int

    def same(self, other: Range) -> bool:
        """Whether both map every number to the same number."""
        return (
            (self.qmin, self.qmax, self.axis) == (other.qmin, other.qmax, other.axis)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )

    def symbols(self, x: float) -> np.ndarray[Any, Any]:
        """The integers that `x` becomes, one per channel, before they are clipped."""
        return np.asarray(np.rint(x / self.scale) + self.zero_point)


def lower_activations(model: ir.Model) -> None:
    """Rewrite the graph around the quantizers of activations, then make them standard ONNX, in place."""
    graph = model.graph
    _drop_clips(graph)
    _repeat_quantizers(graph)
    integers: dict[ir.Value, tuple[Range, ir.Value]] = {}
    for node in list(quantizers(graph)):
        _lower(graph, node, integers)


def use_global_pools(graph: ir.Graph) -> None:
    """A mean over all of height and width becomes GlobalAveragePool, which both runtimes have in int8."""
    import onnx_ir as ir

    for node in list(graph):
        if not _is_global_mean(node):
            continue
        x, y = node.inputs[0], node.outputs[0]
        pool = ir.node("GlobalAveragePool", [x])
        new = [pool]
        if "keepdims" in node.attributes and node.attributes["keepdims"].as_int() == 0:
            followers = _quantizers_behind(y)
            if followers:  # the pool wants its quantizer directly behind it; squeezing keeps the scale
                first = followers[0]
                new.append(
                    ir.node(
                        QUANTIZER, [pool.outputs[0], *first.inputs[1:]], _attributes(first), domain=DOMAIN
                    )
                )
            axes = constant(graph, np.array([2, 3], np.int64), f"{y.name}_axes")
            new.append(ir.node("Squeeze", [new[-1].outputs[0], axes]))
        graph.insert_before(node, new)
        replace(y, new[-1].outputs[0])
        graph.remove(node, safe=True)


def merge_slices(graph: ir.Graph) -> None:
    """Two slices in a row, of different axes, become one: `x[:, :, ::2, ::2]` comes as two."""
    import onnx_ir as ir

    for node in list(graph):
        x = node.inputs[0] if node.op_type == "Slice" else None
        inner = None if x is None else x.producer()
        if x is None or inner is None or inner.op_type != "Slice" or len(x.uses()) > 1 or x.is_graph_output():
            continue
        first, second = _bounds(inner), _bounds(node)
        if not first or not second or set(first[2]) & set(second[2]):
            continue
        given = [
            constant(graph, np.concatenate(both).astype(np.int64), f"{node.name}.{name}")
            for *both, name in zip(first, second, ("starts", "ends", "axes", "steps"), strict=True)
        ]
        new = ir.node("Slice", [inner.inputs[0], *given])
        graph.insert_before(node, new)
        replace(node.outputs[0], new.outputs[0])
        graph.remove(node, safe=True)
        graph.remove(inner, safe=True)


def _bounds(node: ir.Node) -> list[np.ndarray[Any, Any]]:
    """Starts, ends, axes from 0 and steps of a slice; nothing if one is computed, or the rank is not known."""
    x = node.inputs[0]
    found = [content for value in node.inputs[1:] if (content := array(value)) is not None]
    if x is None or x.shape is None or len(found) != 4:
        return []
    starts, ends, axes, steps = found
    return [starts, ends, axes % len(x.shape), steps]


def quantizers(graph: ir.Graph) -> Iterable[ir.Node]:
    """The quantizers that are not lowered yet, in order."""
    return (node for node in graph if node.op_type == QUANTIZER and node.domain == DOMAIN)


def range_of(node: ir.Node) -> Range:
    """The range of a quantizer.

    Raises:
        UnsupportedOp: its scale or zero point is computed while the network runs.
    """
    scale, zero_point = array(node.inputs[1]), array(node.inputs[2])
    if scale is None or zero_point is None:
        raise UnsupportedOp(
            f"quantizer {node.name}", "its scale depends on the input", "calibrate the model, then export"
        )
    numbers = {name: node.attributes[name].as_int() for name in ("qmin", "qmax", "axis")}
    return Range(scale.astype(np.float32), np.rint(zero_point).astype(np.int64), **numbers)


def array(value: ir.Value | None) -> np.ndarray[Any, Any] | None:
    """The content of a constant; None for what is computed."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def constant(graph: ir.Graph, content: np.ndarray[Any, Any], name: str) -> ir.Value:
    """Add an initializer of that content; the name gets a number if it is taken."""
    import onnx_ir as ir

    unique, number = name, 1
    while unique in graph.initializers:
        unique, number = f"{name}_{number}", number + 1
    tensor = ir.tensor(content, name=unique)
    value = ir.Value(
        name=unique, type=ir.TensorType(tensor.dtype), shape=ir.Shape(content.shape), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let everything that reads `old` read `new`, which gets its name, the graph's outputs included."""
    new.shape, new.type = old.shape, old.type
    name = old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name, new.name = f"{name}_before", name


def quantized_values(graph: ir.Graph) -> dict[ir.Value, ir.Node]:
    """For each activation that lies on a quantizer's grid, that quantizer; seen through moves of data."""
    found: dict[ir.Value, ir.Node] = {}
    for node in graph:
        source = _grid_source(node, found)
        if source is not None:
            found.update(dict.fromkeys(node.outputs, source))
    return found


def _grid_source(node: ir.Node, found: dict[ir.Value, ir.Node]) -> ir.Node | None:
    """The quantizer on whose grid the outputs of `node` lie, if any."""
    if node.op_type == QUANTIZER and node.domain == DOMAIN:
        return node if array(node.inputs[0]) is None and node.attributes["axis"].as_int() == -1 else None
    if node.op_type == "Concat":
        sources = [found.get(value) if value is not None else None for value in node.inputs]
        first = sources[0]
        if first is not None and all(s is not None and range_of(s).same(range_of(first)) for s in sources):
            return first
        return None
    if node.op_type not in _MOVES or not node.inputs or node.inputs[0] is None:
        return None
    if node.op_type == "Resize" and node.attributes["mode"].as_string() != "nearest":
        return None
    if node.op_type == "Pad" and not _pads_with_zero(node):
        return None
    return found.get(node.inputs[0])


def _pads_with_zero(node: ir.Node) -> bool:
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    value = array(node.inputs[2])
    return value is not None and not value.any()


def _is_global_mean(node: ir.Node) -> bool:
    x = node.inputs[0] if node.inputs else None
    if x is None or x.shape is None or len(x.shape) != 4:
        return False
    if node.op_type == "ReduceMean":
        axes = array(node.inputs[1]) if len(node.inputs) > 1 else None
        return axes is not None and sorted(int(axis) % 4 for axis in axes) == [2, 3]
    if node.op_type == "AveragePool":
        pads = node.attributes.get("pads")
        kernel = tuple(node.attributes["kernel_shape"].as_ints())
        return tuple(x.shape[2:]) == kernel and (pads is None or not any(pads.as_ints()))
    return False


def _quantizers_behind(value: ir.Value) -> list[ir.Node]:
    """The consumers of `value` if they are all quantizers of activations, else nothing."""
    consumers = list(value.consumers())
    if value.is_graph_output() or not all(node.op_type == QUANTIZER for node in consumers):
        return []
    return consumers


def _drop_clips(graph: ir.Graph) -> None:
    """Remove ReLU and Clip where the quantizers behind clip at least as hard.

    Not where a quantizer is before them, too: ONNX Runtime makes one rounding of two in a row.
    """
    grids = quantized_values(graph)
    for node in list(graph):
        if node.op_type not in {"Relu", "Clip"} or node.inputs[0] in grids:
            continue
        behind = _quantizers_behind(node.outputs[0])
        if behind and all(_clips_already(node, range_of(quantizer)) for quantizer in behind):
            x = node.inputs[0]
            assert x is not None
            node.outputs[0].replace_all_uses_with(x)
            graph.remove(node, safe=True)


def _clips_already(node: ir.Node, span: Range) -> bool:
    low, high = 0.0, np.inf
    if node.op_type == "Clip":
        bounds = [array(value) for value in node.inputs[1:]]
        if any(
            bound is None and value is not None for bound, value in zip(bounds, node.inputs[1:], strict=True)
        ):
            return False
        low, high = (-np.inf, np.inf)
        if bounds and bounds[0] is not None:
            low = float(bounds[0])
        if len(bounds) > 1 and bounds[1] is not None:
            high = float(bounds[1])
    below = low == -np.inf or bool((span.symbols(low) <= span.qmin).all())
    above = high == np.inf or bool((span.symbols(high) >= span.qmax).all())
    return below and above


def _repeat_quantizers(graph: ir.Graph) -> None:
    """Quantize again, on the same grid, behind moves of data that the runtimes do not look through."""
    import onnx_ir as ir

    found: dict[ir.Value, ir.Node] = {}
    for node in list(graph):
        source = _grid_source(node, found)
        if source is None:
            continue
        found.update(dict.fromkeys(node.outputs, source))
        if node.op_type not in _REPEAT_BEHIND:
            continue
        for output in node.outputs:
            uses, consumers = list(output.uses()), list(output.consumers())
            done = all(consumer.op_type == QUANTIZER for consumer in consumers)
            fused = node.op_type == "Pad" and all(consumer.op_type == "Conv" for consumer in consumers)
            if done or fused:
                continue
            again = ir.node(QUANTIZER, [output, *source.inputs[1:]], _attributes(source), domain=DOMAIN)
            again.outputs[0].shape, again.outputs[0].type = output.shape, output.type
            for consumer, index in uses:
                consumer.replace_input_with(index, again.outputs[0])
            graph.insert_after(node, again)
            found[again.outputs[0]] = source


def _attributes(node: ir.Node) -> dict[str, int]:
    return {name: node.attributes[name].as_int() for name in ("qmin", "qmax", "axis")}


def _lower(graph: ir.Graph, node: ir.Node, integers: dict[ir.Value, tuple[Range, ir.Value]]) -> None:
    """One quantizer of an activation → QuantizeLinear (→ Clip, below 8 bits) → DequantizeLinear.

    Args:
        graph: it is in.
        node: the quantizer.
        integers: for what a lowered quantizer gives, its range and the integers; this one is added.
    """
    import onnx_ir as ir

    span = range_of(node)
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    low, high, dtype = integer_type(span, f"quantizer {node.name}")
    integer = ir.DataType[dtype].numpy()
    scale = constant(graph, span.scale, f"{y.name}.step")
    zero_point = constant(graph, span.zero_point.astype(integer), f"{y.name}.zero")
    axis = {"axis": span.axis} if span.axis >= 0 else {}
    source = _integers_to_pad(x, span, integers) if integer.itemsize == 1 else None
    if source is not None:
        pad = x.producer()
        assert pad is not None
        new = [ir.node("Pad", [source, pad.inputs[1], zero_point, *pad.inputs[3:]])]
    else:
        new = [ir.node("QuantizeLinear", [x, scale, zero_point], axis)]
        if (span.qmin, span.qmax) != (low, high):
            bounds = [
                constant(graph, np.array(bound, integer), f"{y.name}.clip")
                for bound in (span.qmin, span.qmax)
            ]
            new.append(ir.node("Clip", [new[-1].outputs[0], *bounds]))
    symbols = new[-1].outputs[0]
    new.append(ir.node("DequantizeLinear", [symbols, scale, zero_point], axis))
    graph.insert_before(node, new)
    replace(y, new[-1].outputs[0])
    integers[new[-1].outputs[0]] = (span, symbols)
    graph.remove(node, safe=True)


def _integers_to_pad(
    x: ir.Value, span: Range, integers: dict[ir.Value, tuple[Range, ir.Value]]
) -> ir.Value | None:
    """Where `x` is padded with zeros and a quantizer of the same range is before that, too: the integers before it.

    ONNX Runtime pads bytes, but does not look through a Pad: it would go to floating point and back for it.
    """
    pad = x.producer()
    if pad is None or pad.op_type != "Pad" or pad.inputs[0] is None or not _pads_with_zero(pad):
        return None
    before, symbols = integers.get(pad.inputs[0], (None, None))
    alike = before is not None and before.same(span) and span.axis == -1
    zero_is_there = bool((span.qmin <= span.zero_point).all() and (span.zero_point <= span.qmax).all())
    mode = pad.attributes.get("mode")
    return symbols if alike and zero_is_there and (mode is None or mode.as_string() == "constant") else None


def integer_type(span: Range, what: str) -> tuple[int, int, str]:
    """The narrowest ONNX type of whole bytes that holds a range: its lowest, its highest, its name.

    Raises:
        UnsupportedOp: ONNX has none.
    """
    for low, high, name in _INTEGER_TYPES:
        inside = low <= span.qmin and span.qmax <= high
        if inside and ((span.zero_point >= low) & (span.zero_point <= high)).all():
            return low, high, name
    raise UnsupportedOp(what, f"no ONNX integer type holds {span.qmin} … {span.qmax}", "use at most 16 bits")
