"""From the graph of a file to a program: each node is carried out once on shapes alone, and noted as one call or a few."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...errors import OperationError, UnsupportedOp
from .functions import CREATES, FUNCTIONS
from .modules import make_module
from .naming import Paths
from .program import Port, Program, Ref, Step, Weight, map_leaves, refs

if TYPE_CHECKING:
    import onnx_ir as ir

_LARGEST, _PER_INPUT = 2**24, 1024
"""Values in one tensor, at most, whatever the input; and for each value of the input: a file may ask for all memory."""
_NESTED = {"state"}
"""Functions that give one value which is a tuple."""
_MANY = 100_000
"""Entries of what is computed from shapes, at most."""


@dataclasses.dataclass
class Value:
    """What is known of a value while the program is made."""

    name: str
    kind: str
    """`tensor`; `sizes`: computed from shapes, an array of integers; `constant`: always the same."""
    data: Any
    """A tensor on `meta`; an array; or the constant itself, a tensor."""
    learned: bool = False
    """It came from the file's weights."""


class Builder:
    """The program under way.

    Args:
        sizes: the shape of each input that the file is tried with.
        fixed: the number of images in each call, where the file has it fixed; None where it is open.
        static: whether no dimension of any input is open.
        opset: of the file.
        tables: what notes each operator: of tensors, and of what is computed from shapes.
    """

    def __init__(
        self,
        sizes: Mapping[str, tuple[int, ...]],
        fixed: int | None,
        static: bool,
        opset: int,
        tables: tuple[Mapping[str, Operator], Mapping[str, Operator]],
    ) -> None:
        self.tables = tables
        self.sizes, self.fixed, self.static, self.opset = sizes, fixed, static, opset
        self.largest = max(_LARGEST, _PER_INPUT * sum(math.prod(shape) for shape in sizes.values()))
        self.readers: dict[str, int] = {}
        """How many nodes, and outputs of the file, read a value."""
        self.given_out: set[str] = set()
        """What the file gives out."""
        self.quantized = False
        """Whether it held integers that stand for other numbers."""
        self.values: dict[str, Value] = {}
        self.steps: list[Step] = []
        self.modules: dict[str, dict[str, Any]] = {}
        self.tensors: dict[str, dict[str, Any]] = {}
        self.state: dict[str, Tensor] = {}
        self.paths = Paths()
        self.shared: dict[Any, str] = {}
        """What a module was made from → its path: a layer that runs twice is one module."""

    def carry_out(self, node: ir.Node) -> None:
        """Note what `node` does.

        Raises:
            UnsupportedOp: it is not understood.
        """
        op = Op(self, node)
        kinds = {value.kind for value in op.inputs if value is not None}
        table, of_sizes = self.tables
        if "sizes" in kinds and "tensor" not in kinds and op.type in of_sizes and op.few():
            table = of_sizes
        if op.type not in table:
            raise op.unsupported(f"the operator {node.op_identifier()[0] or 'ONNX'}::{op.type} is not known")
        try:
            table[op.type](op)
        except (UnsupportedOp, OperationError):
            raise
        except Exception as error:
            raise op.unsupported(
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            ) from error

    def hold(self, name: str, data: Tensor) -> None:
        """Know a weight of the file."""
        self.values[name] = Value(name, "constant", data, learned=True)

    def weight(self, value: Value) -> Weight:
        """The parameter or buffer that holds a constant."""
        key = ("constant", value.name)
        if key not in self.shared:
            path = self.paths.tensor(value.name)
            data = value.data.detach().contiguous()
            learned = value.learned and data.is_floating_point() and data.numel() > 1
            self.state[path] = data
            self.tensors[path] = {
                "shape": tuple(data.shape),
                "dtype": str(data.dtype).removeprefix("torch."),
                "learned": learned,
            }
            self.shared[key] = path
        return Weight(self.shared[key])

    def program(self, inputs: Sequence[Port], outputs: Sequence[Port], **more: Any) -> Program:
        """What was noted, without the steps that nothing reads."""
        needed = {port.name for port in outputs}
        kept: list[Step] = []
        for step in reversed(self.steps):
            if needed & set(step.outputs):
                kept.append(step)
                needed.update(refs((step.args, step.options)))
        used = {step.target for step in kept if step.kind == "module"}
        held: set[str] = set()

        def note(leaf: Any) -> None:
            if isinstance(leaf, Weight):
                held.add(leaf.path)

        map_leaves([(step.args, step.options) for step in kept], note)
        for path in [*self.state]:
            if path not in held and path.rpartition(".")[0] not in used:
                del self.state[path]
        return Program(
            tuple(inputs),
            tuple(outputs),
            tuple(reversed(kept)),
            {path: spec for path, spec in self.modules.items() if path in used},
            {path: spec for path, spec in self.tensors.items() if path in held},
            **more,
        )


class Op:
    """One node: its inputs and attributes, and what it becomes."""

    def __init__(self, builder: Builder, node: ir.Node) -> None:
        self.builder, self.node, self.type = builder, node, node.op_type
        self.inputs: list[Value | None] = [
            None if value is None or value.name is None or value.name == "" else builder.values[value.name]
            for value in node.inputs
        ]
        self.outputs = [value.name or "" for value in node.outputs]
        self.version = node.version or builder.opset

    def few(self) -> bool:
        """Whether what it computes with is as few numbers as shapes are."""
        return all(
            value is None
            or (value.data.numel() if isinstance(value.data, Tensor) else value.data.size) <= _MANY
            for value in self.inputs
        )

    @property
    def name(self) -> str:
        """As errors call it."""
        return f"node {self.node.name or ', '.join(self.outputs)!r} ({self.type})"

    def unsupported(self, cause: str) -> UnsupportedOp:
        """The error that names the node."""
        return UnsupportedOp(
            self.name, cause, "export the network without it, or cut the file in front of it"
        )

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        found = self.node.attributes.get(name)
        if found is None or found.value is None:
            return default
        return found.value

    def has(self, index: int) -> bool:
        """Whether there is such an input."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def value(self, index: int) -> Value:
        """An input.

        Raises:
            UnsupportedOp: it is missing.
        """
        if not self.has(index):
            raise self.unsupported(f"input {index} is missing")
        return self.inputs[index]  # type: ignore[return-value]

    def tensor(self, index: int) -> Value:
        """An input as a tensor, also if it was computed from shapes."""
        value = self.value(index)
        return self.between("tensor", value) if value.kind == "sizes" else value

    def constant(self, index: int) -> Tensor | None:
        """An input that is always the same; None for one that is not there.

        Raises:
            UnsupportedOp: it depends on the data.
        """
        if not self.has(index):
            return None
        value = self.value(index)
        if value.kind == "sizes" and not value.data.size:
            return torch.empty(0)
        if value.kind != "constant":
            raise self.unsupported(f"its input {index} is computed, not a constant")
        return value.data  # type: ignore[no-any-return]

    def is_constant(self, index: int) -> bool:
        """Whether an input is there and always the same."""
        return self.has(index) and self.value(index).kind == "constant"

    def numbers(self, index: int | None, attribute: str | None = None, default: Any = None) -> Any:
        """Integers that are an input in newer files and an attribute in older ones: a tuple, or what will be one.

        Raises:
            UnsupportedOp: they depend on the data.
        """
        if attribute is not None and (given := self.attribute(attribute)) is not None:
            return tuple(given) if isinstance(given, Sequence) else (given,)
        if index is None or not self.has(index):
            return default
        value = self.value(index)
        if value.kind == "constant":
            return tuple(value.data.reshape(-1).tolist())
        if value.kind == "sizes":
            return value
        raise self.unsupported(f"its input {index}, a size or place, depends on the data")

    def rank(self, index: int = 0) -> int:
        """Number of dimensions of an input."""
        data = self.value(index).data
        return data.dim() if isinstance(data, Tensor) else data.ndim

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of an input, of the sizes that the file is tried with."""
        return tuple(self.value(index).data.shape)

    def operand(self, index: int) -> Any:
        """An input of arithmetic: a constant of one value is a plain number where that changes no shape."""
        value = self.value(index)
        others = [self.value(k) for k in range(len(self.inputs)) if self.has(k)]
        if value.kind != "constant" or value.data.numel() != 1 or all(one.kind != "tensor" for one in others):
            return value
        ranks = [self.rank(k) for k in range(len(self.inputs)) if k != index and self.has(k)]
        return value.data.item() if value.data.dim() <= max(ranks, default=0) else value

    def call(self, target: str, *args: Any, **options: Any) -> None:
        """Note the call of a function; its result is this node's."""
        self._note("function", target, args, options, self.outputs)

    def between(self, target: str, *args: Any, **options: Any) -> Value:
        """Note the call of a function whose result this node goes on with."""
        name = f"{self.outputs[0]}@{len(self.builder.steps)}"
        self._note("function", target, args, options, [name])
        return self.builder.values[name]

    def module(
        self,
        kind: str,
        settings: Mapping[str, Any],
        weights: Mapping[str, Tensor | None],
        *args: Any,
        key: Any = None,
        between: bool = False,
    ) -> Value | None:
        """Note a layer, and its call.

        Args:
            kind: class of torch.nn.
            settings: its keyword arguments.
            weights: of its parameters and buffers, by name; None ones are left out.
            args: what it is called with.
            key: what the layer is made of: the same again is the same layer.
            between: whether this node goes on with the result.
        """
        builder = self.builder
        known = (kind, tuple(sorted((k, str(v)) for k, v in settings.items())), key)
        if key is None or known not in builder.shared:
            path = builder.paths.module(self.node, kind)
            builder.modules[path] = {"class": kind, "options": dict(settings)}
            for name, tensor in weights.items():
                if tensor is not None:
                    builder.state[f"{path}.{name}"] = tensor.detach().contiguous()
            builder.shared[known] = path
        path = builder.shared[known]
        outputs = [f"{self.outputs[0]}@{len(builder.steps)}"] if between else self.outputs
        self._note("module", path, args, {}, outputs)
        return builder.values[outputs[0]] if between else None

    def alias(self, value: Value) -> None:
        """This node's result is `value` itself."""
        self.builder.values[self.outputs[0]] = dataclasses.replace(value)

    def keep(self, tensor: Any, learned: bool = False) -> None:
        """This node's result is a constant."""
        name = self.outputs[0]
        self.builder.values[name] = Value(name, "constant", torch.as_tensor(tensor), learned)

    def _note(self, kind: str, target: str, args: Any, options: Any, outputs: Sequence[str]) -> None:
        builder = self.builder
        found: list[Value] = []

        def note(leaf: Any) -> None:
            if isinstance(leaf, Value):
                found.append(leaf)

        map_leaves((args, options), note)
        made = self._carried_out(kind, target, args, options, meta=True)
        alone = kind == "module" or target in _NESTED or not isinstance(made, tuple | list)
        results = (made,) if alone else tuple(made)
        for result in results:
            self._check_size(result)
        if kind == "function" and target not in _NESTED and all(one.kind == "constant" for one in found):
            made = self._carried_out(kind, target, args, options, meta=False)
            results = (made,) if alone else tuple(made)
            learned = any(one.learned for one in found)
            for name, result in zip(outputs, results, strict=False):
                builder.values[name] = Value(name, "constant", _real(result), learned)
            return

        def placed(leaf: Any) -> Any:
            if not isinstance(leaf, Value):
                return leaf
            return builder.weight(leaf) if leaf.kind == "constant" else Ref(leaf.name)

        many = len(results) > 1
        builder.steps.append(
            Step(
                kind,
                target,
                map_leaves(args, placed),
                map_leaves(options, placed),
                tuple(outputs)[: len(results)] if many and len(outputs) > 1 else (*outputs[:1], *[""] * many),
                self.node.name or self.outputs[0],
            )
        )
        for name, result in zip(outputs, results, strict=False):
            if name:
                kept = "sizes" if isinstance(result, np.ndarray) else "tensor"
                builder.values[name] = Value(name, kept, result)

    def _carried_out(self, kind: str, target: str, args: Any, options: Any, meta: bool) -> Any:
        def plain(leaf: Any) -> Any:
            if not isinstance(leaf, Value):
                return leaf
            if isinstance(leaf.data, Tensor):
                return leaf.data.to("meta") if meta and leaf.data.dim() else leaf.data
            return leaf.data

        given, named = map_leaves(args, plain), map_leaves(options, plain)
        with torch.no_grad():
            if kind == "module":
                with torch.device("meta"):
                    layer = make_module(self.builder.modules[target])
                return layer.eval()(*given)
            if target in CREATES:
                named = {**named, "device": torch.device("meta" if meta else "cpu")}
            return FUNCTIONS[target](*given, **named)

    def _check_size(self, result: Any) -> None:
        many = math.prod(result.shape) if hasattr(result, "shape") else 0
        if many > (self.builder.largest if isinstance(result, Tensor) else _MANY):
            raise OperationError(
                self.name, f"it makes {many} values", "check the file: no network needs so many in one place"
            )


def _real(result: Any) -> Tensor:
    if isinstance(result, Tensor):
        return result
    flat = np.asarray(result, object)
    return torch.tensor(flat.tolist()).reshape(flat.shape)


Operator = Callable[[Op], None]
