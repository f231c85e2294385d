"""Names and open dimensions of an ONNX graph's inputs and outputs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_leaves, tree_map

from ...errors import OperationError
from ...models.onnx.program import Program
from ..options import Options

if TYPE_CHECKING:
    import onnx_ir as ir


def open_shapes(model: nn.Module, args: tuple[Any, ...], options: Options) -> dict[str, Any] | None:
    """What torch.export wants to hear: which dimensions of which argument are open, nested like the arguments.

    None if none is.
    """
    batch, left = torch.export.Dim("batch"), iter(_left_open(args, options))
    if not any(_left_open(args, options)):
        return None

    def dims(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return None
        return {dim: torch.export.Dim.AUTO if dim else batch for dim in next(left)}

    bound = inspect.signature(model.forward).bind(*args).arguments
    return {name: tree_map(dims, value) for name, value in bound.items()}


def check_open(graph: ir.Graph, args: tuple[Any, ...], options: Options) -> None:
    """Make sure that the dimensions that were to be open are.

    Raises:
        OperationError: the network fixes one of them.
    """
    for value, left in zip(graph.inputs, _left_open(args, options), strict=True):
        for dim, name in left.items():
            if value.shape is not None and isinstance(value.shape[dim], int):
                raise OperationError(
                    f"input {value.name} with an open {name}",
                    f"the network works for a {name} of {value.shape[dim]} alone",
                    f'leave "{name}" out of dynamic=' if options.dynamic else 'pass dynamic={"batch"}',
                )


def name_open(graph: ir.Graph, args: tuple[Any, ...], options: Options) -> None:
    """Call the open dimensions what they are, wherever they come up: the tracer numbers them.

    Args:
        graph: its inputs have their names.
        args: of the forward.
        options: of the export.
    """
    import onnx_ir as ir

    called: dict[str, str] = {}
    for value, left in zip(graph.inputs, _left_open(args, options), strict=True):
        for dim, name in left.items():
            symbol = None if value.shape is None else value.shape[dim]
            if isinstance(symbol, ir.SymbolicDim) and symbol.value:
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


def name_as(graph: ir.Graph, program: Program) -> None:
    """Call inputs, outputs and the outputs' dimensions as the file does that the network was read from."""
    import onnx_ir as ir

    ends = {*graph.inputs, *graph.outputs}
    wanted = {port.name for port in (*program.inputs, *program.outputs)}
    others = [value for node in graph for value in node.outputs if value not in ends]
    for value in (*graph.initializers.values(), *others):
        if value.name in wanted:
            value.name = f"{value.name}_inside"
    for values, ports in ((graph.inputs, program.inputs), (graph.outputs, program.outputs)):
        for value, port in zip(values, ports, strict=True):
            value.name = port.name
    for value, port in zip(graph.outputs, program.outputs, strict=True):
        if value.shape is not None and port.shape is not None and len(port.shape) == len(value.shape):
            told = zip(value.shape, port.shape, strict=True)
            value.shape = ir.Shape([one if isinstance(one, int) else name or one for one, name in told])


def _left_open(args: tuple[Any, ...], options: Options) -> list[dict[int, str]]:
    """Of each tensor: its open dimensions by number."""
    tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
    return [options.open_of(number, tensor.shape) for number, tensor in enumerate(tensors)]


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
