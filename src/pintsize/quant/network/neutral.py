"""What does nothing: operations that give back a tensor as it is, whatever it holds.

`x + 0` where a branch is missing, `x * 1`, a clone, a view of the same shape, a slice that takes all. They are told by
their operands' values, not by their names, and no quantizer is ever placed for their sake: writers of files and
runtimes drop them. Only what cannot change counts as a value: numbers, and tensors that the forward makes or keeps
beside its parameters and buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from ...graph.trace import Op, Value

_COPIES = frozenset({"clone", "detach", "lift_fresh"})
_SHAPES = frozenset({  # these keep the order of what they hold: with the same shape and type they do nothing
    "_to_copy", "_unsafe_view", "alias", "expand", "reshape", "slice", "squeeze", "view",
})  # fmt: skip
_FILLS = {"zeros": 0.0, "zeros_like": 0.0, "new_zeros": 0.0, "ones": 1.0, "ones_like": 1.0, "new_ones": 1.0}
_FILLED = {"full": 1, "full_like": 1, "new_full": 2, "scalar_tensor": 0}  # where the number stands
_POOLS = frozenset({"avg_pool1d", "avg_pool2d", "avg_pool3d"})
_SIZES: tuple[tuple[int, Any], ...] = (
    (1, 0),
    (2, []),
    (3, 0),
)  # where kernel, stride, padding stand, or what is meant
_DIVISOR = 6


@dataclass(frozen=True)
class Same:
    """An operation gives back one of its inputs."""

    value: Value
    always: bool
    """For inputs of any shape and type; else for those that the trace saw (a crop to the size that the image has)."""


class Neutral:
    """Tells the operations of one trace, taken in order, that do nothing."""

    def __init__(self) -> None:
        self._fills: dict[Value, float | None] = {}

    def same(self, op: Op) -> Same | None:
        """What `op` gives back as it is, if it does; notes the tensors that it fills with one number."""
        name = op.func.overloadpacket.__name__.rstrip("_")
        if len(op.outputs) != 1:
            return None
        out = op.outputs[0]
        found = self._arithmetic(name, op) or _copy(name, op)
        if found is not None and (found.value.shape, found.value.dtype) != (out.shape, out.dtype):
            found = None
        self._note(name, op, out)
        return found

    def forget(self, value: Value) -> None:
        """`value` is written into: it holds one number no longer."""
        self._fills[value] = None

    def _note(self, name: str, op: Op, out: Value) -> None:
        number: Any = _FILLS.get(name)
        if name in _FILLED:
            number = op.args[_FILLED[name]]
        elif (name in _COPIES or name in _SHAPES) and op.inputs:
            number = self._fill(op.inputs[0])
        if isinstance(number, int | float):
            self._fills[out] = float(number)

    def _fill(self, operand: Any) -> float | None:
        """The number that `operand` is, or that it holds everywhere."""
        if isinstance(operand, bool | int | float):
            return float(operand)
        if not isinstance(operand, Value):
            return None
        held = operand.constant
        if operand not in self._fills and operand.name is None and isinstance(held, Tensor) and held.numel():
            return float(held.flatten()[0]) if bool((held == held.flatten()[0]).all()) else None
        return self._fills.get(operand)

    def _arithmetic(self, name: str, op: Op) -> Same | None:
        if name in {"add", "sub", "mul", "div", "pow"} and len(op.args) >= 2:
            return self._binary(name, op.args[0], op.args[1], op.kwargs)
        if name in _POOLS:
            kernel, stride, padding = (
                op.args[at] if len(op.args) > at else default for at, default in _SIZES
            )
            plain = _all(kernel, 1) and (not stride or _all(stride, 1)) and _all(padding, 0)
            return Same(op.args[0], always=True) if plain and len(op.args) < _DIVISOR + 1 else None
        return None

    def _binary(self, name: str, one: Any, other: Any, options: dict[str, Any]) -> Same | None:
        alpha = options.get("alpha", 1)
        nothing = 0 if name in {"add", "sub"} else 1
        if options.get("rounding_mode") is not None:
            return None
        if isinstance(one, Value) and self._fill(other) == nothing:
            return Same(one, always=True)
        if name in {"add", "mul"} and alpha == 1 and isinstance(other, Value) and self._fill(one) == nothing:
            return Same(other, always=True)
        return None


def given_back(
    func: torch._ops.OpOverload, args: Any, kwargs: Any, result: Any, computed: Callable[[Tensor], bool]
) -> Tensor | None:
    """The tensor among `args` that a call that was just made gives back as it is, if it does.

    Args:
        func: what was called.
        args: with what.
        kwargs: with what.
        result: what it returned.
        computed: whether a tensor depends on the network's input, so that what it holds counts for nothing.
    """
    found: dict[Value, Tensor] = {}

    def noted(tensor: Tensor) -> Value:
        value = Value(tensor.shape, tensor.dtype, constant=None if computed(tensor) else tensor)
        found[value] = tensor
        return value

    own_args, own_kwargs = tree_map_only(Tensor, noted, (args, kwargs))
    outputs = [Value(leaf.shape, leaf.dtype) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    same = Neutral().same(Op(func, own_args, own_kwargs, outputs, "", None))
    return None if same is None else found[same.value]


def reads_shape_only(op: Op) -> bool:
    """Whether `op` takes no more than the shape of its tensors: `torch.zeros_like`."""
    name = str(op.func.overloadpacket.__name__)
    return name.endswith("_like") or name.startswith("new_")


def _copy(name: str, op: Op) -> Same | None:
    x = op.args[0] if op.args else None
    if name == "cat" and len(op.inputs) == 1:
        return Same(op.inputs[0], always=True)
    if not isinstance(x, Value):
        return None
    if name in _COPIES:
        return Same(x, always=True)
    if name in _SHAPES:
        return Same(x, always=False)
    if name == "permute" and [dim % len(x.shape) for dim in op.args[1]] == [*range(len(x.shape))]:
        return Same(x, always=True)
    if name == "transpose" and op.args[1] % len(x.shape) == op.args[2] % len(x.shape):
        return Same(x, always=True)
    return None


def _all(numbers: Any, wanted: int) -> bool:
    return all(number == wanted for number in (numbers if isinstance(numbers, list | tuple) else [numbers]))
