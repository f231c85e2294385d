"""Names and open dimensions of an ONNX graph's inputs and outputs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_leaves, tree_map

from ...errors import OperationError
from ..options import DIMENSIONS

if TYPE_CHECKING:
    import onnx_ir as ir


def open_shapes(model: nn.Module, args: tuple[Any, ...], names: Collection[str]) -> dict[str, Any]:
    """What torch.export wants to hear: which dimensions of which argument are open, nested like the arguments."""
    batch = torch.export.Dim("batch")

    def dims(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return None
        chosen = {
            dim: torch.export.Dim.AUTO for dim, name in enumerate(_dimensions(leaf)) if dim and name in names
        }
        return {0: batch, **chosen} if "batch" in names and leaf.dim() else chosen

    bound = inspect.signature(model.forward).bind(*args).arguments
    return {name: tree_map(dims, value) for name, value in bound.items()}


def check_open(graph: ir.Graph, args: tuple[Any, ...], names: Collection[str]) -> None:
    """Make sure that the dimensions that were to be open are.

    Raises:
        OperationError: the network fixes one of them.
    """
    tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
    for value, tensor in zip(graph.inputs, tensors, strict=True):
        for dim, name in enumerate(_dimensions(tensor)):
            if name in names and value.shape is not None and isinstance(value.shape[dim], int):
                raise OperationError(
                    f"input {value.name} with an open {name}",
                    f"the network works for a {name} of {value.shape[dim]} alone",
                    f'leave "{name}" out of dynamic=',
                )


def name_open(graph: ir.Graph, args: tuple[Any, ...], names: Collection[str]) -> None:
    """Call the open dimensions what they are, wherever they come up: the tracer numbers them.

    Args:
        graph: its inputs have their names.
        args: of the forward.
        names: of the open dimensions.
    """
    import onnx_ir as ir

    tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
    called: dict[str, str] = {}
    for value, tensor in zip(graph.inputs, tensors, strict=True):
        for dim, name in enumerate(_dimensions(tensor)):
            symbol = None if value.shape is None else value.shape[dim]
            if name in names and isinstance(symbol, ir.SymbolicDim) and symbol.value:
                own = f"{value.name}_{name}" if name in called.values() else name
                called.setdefault(symbol.value, own)  # inputs of which one may be larger than the other

    def renamed(dim: Any) -> Any:
        if not isinstance(dim, ir.SymbolicDim) or not dim.value:
            return dim
        return re.sub(r"\w+", lambda found: called.get(found[0], found[0]), dim.value)

    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([renamed(dim) for dim in value.shape])


def name_ends(graph: ir.Graph, args: Any, names: Sequence[str] | None, outputs: Any) -> None:
    """Call inputs and outputs by the keys that the network has for them; else `input`, or `input_0` and so on.

    Args:
        graph: of the network.
        args: of its forward.
        names: of the arguments, if they were given by name.
        outputs: nested as its outputs are, with a string for each tensor.
    """
    import onnx_ir as ir

    seen: set[ir.Value] = set(graph.inputs)
    for number, value in enumerate(graph.outputs):
        if value in seen:  # an input, or the same tensor twice: each has a name of its own
            copy = ir.node("Identity", [value])
            copy.outputs[0].shape, copy.outputs[0].type = value.shape, value.type
            graph.append(copy)
            graph.outputs[number] = copy.outputs[0]
        seen.add(graph.outputs[number])
    named = _keys(args, names, len(graph.inputs)), _keys(outputs, None, len(graph.outputs))
    taken = set(graph.initializers)
    for kind, values, keys in (("input", graph.inputs, named[0]), ("output", graph.outputs, named[1])):
        for number, value in enumerate(values):
            plain = kind if len(values) == 1 else f"{kind}_{number}"
            key = keys[number] if keys else plain
            value.name = plain if key in taken else key
            taken.add(value.name)
    ends = {*graph.inputs, *graph.outputs}
    for node in graph:
        for value in node.outputs:
            if value not in ends and value.name in taken:
                value.name = f"{value.name}_inside"


def _dimensions(tensor: Tensor) -> tuple[str, ...]:
    return DIMENSIONS if tensor.dim() == len(DIMENSIONS) else DIMENSIONS[: min(1, tensor.dim())]


def _keys(tree: Any, names: Sequence[str] | None, count: int) -> list[str]:
    """A name for each leaf from the keys on the way to it; nothing where not every leaf has one of its own."""
    paths = []
    for path, leaf in tree_flatten_with_path(tree)[0]:
        if isinstance(leaf, Tensor | str):
            parts = [_text(key) for key in path]
            paths.append([names[int(parts[0])], *parts[1:]] if names is not None else parts)
    words = [[part for part in parts if not part.isdigit()] for parts in paths]
    for chosen in (words, paths):
        found = ["_".join(parts) for parts in chosen]
        if all(words) and len(found) == len(set(found)) == count:
            return found
    return []


def _text(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", ""))))
