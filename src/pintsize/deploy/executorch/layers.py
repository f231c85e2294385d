"""The layers of a traced network in the form that ExecuTorch's passes and XNNPACK understand: one call, one weight.

XNNPACK folds batch norms into the weight of the layer before them and stores a bias as integers of its
input's scale, both in place: a layer that runs several times needs a weight and a bias for each call. Of
one-dimensional convolutions it has no integer kernel: they become two-dimensional ones on images one pixel high.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import fx

LAYERS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear")
QUANTIZER = "quantize_dequantize"
_RELU = ("relu", "relu_", "hardtanh", "hardtanh_", "relu6", "relu6_")


_MOVES = ("pad", "slice", "narrow", "cat")
_AS_IMAGES = {
    "conv1d": (torch.ops.aten.conv2d, "default"),
    "conv_transpose1d": (torch.ops.aten.conv_transpose2d, "input"),
}
"""One dimension → the operation in two, and its overload."""


def parameters_for_each_call(module: fx.GraphModule) -> None:
    """Give each call of a layer that runs several times its own copy of weight and bias, in place."""
    graph = module.graph
    readers = Counter(
        str(given.target) for node in graph.nodes for given in node.all_input_nodes if given.op == "get_attr"
    )
    for node in list(graph.nodes):
        for position in (1, 2) if is_layer(node) and node.args[1:] else ():
            given = node.args[position] if position < len(node.args) else None
            if not isinstance(given, fx.Node):
                continue
            with graph.inserting_before(node):
                if given.op == "get_attr" and readers[str(given.target)] > 1:
                    copy = attribute(module, str(given.target)).detach().clone()
                    node.update_arg(position, stored(module, f"{node.name}_own_{position}", copy))
                elif name_of(given) == QUANTIZER and len(given.users) > 1:
                    node.update_arg(position, graph.call_function(given.target, given.args))  # type: ignore[arg-type]


def store_constants(module: fx.GraphModule) -> None:
    """Make the constants that `rewrites` has worked out buffers, in place."""
    for node in list(module.graph.nodes):
        if node.target is torch.ops.pintsize.constant.default:
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(stored(module, f"{node.name}_stored", node.target(*node.args)))
            module.graph.erase_node(node)


def lines_as_images(module: fx.GraphModule) -> None:
    """Write one-dimensional convolutions of quantized numbers as two-dimensional ones, in place."""
    for node in list(module.graph.nodes):
        if name_of(node) in _AS_IMAGES and all(name_of(given) == QUANTIZER for given in node.args[:2]):
            _as_image(module.graph, node, _quantizer_behind(node))
    module.graph.eliminate_dead_code()


def quantize_behind_moves(module: fx.GraphModule) -> None:
    """Round again, to the same levels, what is padded, cut or joined, in place.

    XNNPACK does these on integers as soon as integers go in, and then expects that integers come out.
    """
    sources: dict[fx.Node, fx.Node] = {}
    for node in list(module.graph.nodes):
        if name_of(node) == QUANTIZER:
            sources[node] = node
        found = [sources.get(given) for given in node.all_input_nodes]
        source = found[0] if found else None
        if name_of(node) not in _MOVES or source is None or _pads_with_a_value(node):
            continue
        if any(other is None or other.args[1:] != source.args[1:] for other in found):
            continue
        sources[node] = source
        readers = [user for user in node.users if name_of(user) not in (*_MOVES, QUANTIZER)]
        if readers:
            with module.graph.inserting_after(node):
                again = _again(module.graph, source, node)
            for reader in readers:
                reader.replace_input_with(node, again)


def _pads_with_a_value(node: fx.Node) -> bool:
    value = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
    return name_of(node) == "pad" and bool(value)


def _quantizer_behind(node: fx.Node) -> fx.Node | None:
    """The quantizer that alone reads what `node`, or a ReLU behind it, gives."""
    for _ in range(2):
        if len(node.users) != 1:
            return None
        node = next(iter(node.users))
        if name_of(node) == QUANTIZER:
            return node
        if name_of(node) not in _RELU:
            return None
    return None


def _as_image(graph: fx.Graph, node: fx.Node, behind: fx.Node | None) -> None:
    """`node` … `behind`, if there is such a quantizer, once more in two dimensions.

    XNNPACK finds its kernels by the quantizers at their ends, which are therefore written again there.
    """
    aten, call = torch.ops.aten, graph.call_function
    x, weight, *_ = node.args
    assert isinstance(x, fx.Node)
    assert isinstance(weight, fx.Node)
    target, options = _in_two_dimensions(node)
    with graph.inserting_before(behind or node):
        image = _again(graph, x, call(aten.unsqueeze.default, (x, 2)))
        kernel = _again(graph, weight, call(aten.unsqueeze.default, (weight.args[0], 2)))
        result = call(target, (image, kernel), options)
        if behind is not None:
            middle = behind.args[0]
            if middle is not node:
                assert isinstance(middle, fx.Node)
                result = _again(graph, middle, result)
            result = _again(graph, behind, result)
        line = call(aten.squeeze.dim, (result, 2))
        if behind is not None:
            line = _again(graph, behind, line)
    (behind or node).replace_all_uses_with(line)


def _again(graph: fx.Graph, node: fx.Node, x: fx.Node) -> fx.Node:
    """The operation of `node`, of `x`."""
    return graph.call_function(node.target, (x, *node.args[1:]), node.kwargs)  # type: ignore[arg-type]


def _in_two_dimensions(node: fx.Node) -> tuple[Any, dict[str, Any]]:
    """The two-dimensional operation for a one-dimensional convolution, and its arguments behind the weight."""
    fills = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    options = {
        key: [fills[key], *(value if isinstance(value, list | tuple) else [value])]
        if key in fills and not isinstance(value, str) else value
        for key, value in given.items() if key not in ("input", "weight")
    }  # fmt: skip
    plain, overload = _AS_IMAGES[name_of(node)]
    return getattr(plain, "padding" if isinstance(given.get("padding"), str) else overload), options


def is_layer(node: Any) -> bool:
    """Whether it is a call of a convolution or a linear layer."""
    return name_of(node) in LAYERS


def stored(module: fx.GraphModule, name: str, value: torch.Tensor) -> fx.Node:
    """A new buffer of that value, and the node that reads it, at the graph's present insertion point."""
    module.register_buffer(name, value)
    return module.graph.get_attr(name)


def attribute(module: Any, path: str) -> Any:
    """The parameter, buffer or constant at a dotted path."""
    for part in path.split("."):
        module = getattr(module, part)
    return module


def name_of(node: Any) -> str:
    """An operation's name without its overload; nothing for what calls none."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return ""
    return getattr(node.target, "__name__", "").split(".")[0]
