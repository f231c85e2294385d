"""Depth: whole residual blocks leave a network, which then computes their shortcut alone.

Where a runtime spends its time between layers rather than in them (small images, batch 1), fewer channels
save little and fewer layers save all of theirs (Chen and Zhao 2018, "Shallowing Deep Networks").
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from .. import record as _record
from ..errors import OperationError, unknown
from ..graph.ops import aten
from ..graph.trace import Op, Trace, Value, as_args, quiet
from ..graph.trace import record as trace_of

_REMAINS: dict[str, type[nn.Module]] = {"identity": nn.Identity, "relu": nn.ReLU, "relu6": nn.ReLU6}
"""What may be left of a block."""
_RELU, _CLIP = (aten.relu, aten.relu_), (aten.hardtanh, aten.hardtanh_)


@_record.register
@dataclass(frozen=True)
class DepthStep(_record.Step):
    """Residual blocks taken out of a network."""

    kind: ClassVar[str] = "depth"
    may_follow: ClassVar[frozenset[str]] = frozenset({"prune", "mask", "depth"})
    reason: ClassVar[str] = "the scales and codebooks that it stored belong to the layers as they were"

    blocks: dict[str, str] = field(default_factory=dict)
    """Module → what is left of it: `identity`, `relu` or `relu6`."""

    def __post_init__(self) -> None:
        for path, remains in self.blocks.items():
            if not path or remains not in _REMAINS:
                raise ValueError(f"{remains!r} cannot be left of a block {path!r}")

    def apply(self, model: nn.Module) -> None:
        """Put what is left of each block in its place."""
        for path, remains in self.blocks.items():
            block = model.get_submodule(path)
            model.set_submodule(path, _REMAINS[remains]().train(block.training))


def residual_blocks(model: nn.Module, example: Any) -> dict[str, str]:
    """Blocks that may leave the network, in the order in which they run.

    A block is a module with parameters of its own that gives its input plus something of the same shape, or
    the ReLU or ReLU6 of this sum; the innermost such modules count. Blocks that change the size of the image
    or the number of channels are none: without them what follows would not fit.

    Args:
        model: any module; unchanged.
        example: an input batch, or a tuple of inputs.

    Returns:
        Path → what would be left of the block: `identity`, or its `relu` or `relu6` where what it reads has
        not just been through the same.

    Raises:
        OperationError: the forward fails on `example`.
    """
    trace = trace_of(model, example)
    found = {}
    for path, module in model.named_modules():
        own = {id(parameter) for parameter in module.parameters()}
        others = (p for name, m in model.named_modules(remove_duplicate=False) if not _within(name, path)
                  for p in m.parameters(recurse=False))  # fmt: skip
        if path and own and own.isdisjoint(map(id, others)):
            remains = _remains(trace, path)
            if remains is not None:
                found[path] = remains
    innermost = [path for path in found if not any(other.startswith(f"{path}.") for other in found)]
    ran = list(dict.fromkeys(op.module for op in trace.ops))
    first = {path: next(i for i, name in enumerate(ran) if _within(name, path)) for path in innermost}
    return {path: found[path] for path in sorted(innermost, key=first.__getitem__)}


def drop_blocks(model: nn.Module, example: Any, blocks: Sequence[str]) -> DepthStep:
    """Take residual blocks out of `model`, in place, all or nothing; their shortcuts stay.

    What the blocks added to the stream is lost: let the network recover by training.

    Args:
        model: any module.
        example: an input batch, or a tuple of inputs.
        blocks: paths, of `residual_blocks`.

    Returns:
        The step, which was appended to the model's record.

    Raises:
        InputError: a path that is no such block.
        IllegalOrder: the network is quantized.
        OperationError: the forward fails on `example`.
    """
    _record.check_order(model, DepthStep)
    known = residual_blocks(model, example)
    for path in blocks:
        if path not in known:
            raise unknown("residual block", path, known)
    step = DepthStep({path: remains for path, remains in known.items() if path in set(blocks)})
    with without_blocks(model, step.blocks), quiet(model):
        try:
            model(*as_args(example))
        except Exception as error:
            raise OperationError(
                f"{type(model).__name__} without {', '.join(step.blocks)}",
                f"its forward raised {type(error).__name__}: {error}",
                "leave out fewer blocks",
            ) from error
    step.apply(model)
    _record.append(model, step)
    return step


@contextlib.contextmanager
def without_blocks(model: nn.Module, blocks: dict[str, str]) -> Iterator[None]:
    """A context in which these blocks are away."""
    before = {path: model.get_submodule(path) for path in blocks}
    try:
        DepthStep(dict(blocks)).apply(model)
        yield
    finally:
        for path, block in before.items():
            model.set_submodule(path, block)


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _remains(trace: Trace, path: str) -> str | None:
    """What would be left of the module; None if it is no residual block."""
    places = [i for i, op in enumerate(trace.ops) if _within(op.module, path)]
    if not places or places[-1] - places[0] + 1 != len(places):
        return None  # it runs more than once, or not at all
    before, inside, after = (
        trace.ops[: places[0]],
        trace.ops[places[0] : places[-1] + 1],
        trace.ops[places[-1] + 1 :],
    )
    made = {value for op in inside for value in op.outputs}
    came = {*trace.inputs, *(value for op in before for value in op.outputs)}
    read = {value for op in inside for value in op.inputs if value in came}
    given = made & {*trace.outputs, *(value for op in after for value in op.inputs)}
    if len(read) != 1 or len(given) != 1 or read & made:
        return None  # several tensors go in or out, or the stream is changed in place
    (stream,), (result,) = read, given
    last = _writer(inside, result)
    act = _activation(last)
    assert last is not None
    total = last if act is None else _writer(inside[: inside.index(last)], last.args[0])
    if total is None or not _adds(total, stream) or stream.shape != result.shape:
        return None
    if act is None:
        return "identity"
    source = _writer(before, stream)
    while source is not None and source.func.overloadpacket is aten.max_pool2d_with_indices:
        source = _writer(before, source.args[0])  # the largest of positive values is positive
    return "identity" if _activation(source) == act else act


def _writer(ops: Sequence[Op], value: Value) -> Op | None:
    """The last op that wrote a value."""
    return next((op for op in reversed(ops) if value in op.outputs), None)


def _activation(op: Op | None) -> str | None:
    if op is None:
        return None
    packet = op.func.overloadpacket
    if packet in _RELU:
        return "relu"
    return "relu6" if packet in _CLIP and tuple(op.args[1:]) == (0.0, 6.0) else None


def _adds(op: Op, stream: Value) -> bool:
    """Whether the op adds something of the same shape to the stream."""
    if op.func.overloadpacket not in (aten.add, aten.add_) or op.kwargs.get("alpha", 1) != 1:
        return False
    terms = op.args[:2]
    return stream in terms and all(isinstance(t, Value) and t.shape == stream.shape for t in terms)
