"""Depth: whole residual blocks leave a network, which then computes their shortcut alone.

Where a runtime spends its time between layers rather than in them (small images, batch 1), fewer channels
save little and fewer layers save all of theirs (Chen and Zhao 2018, "Shallowing Deep Networks").
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ...errors import InputError, OperationError, unknown
from ...graph.inputs import as_args
from ...graph.ops import aten
from ...graph.trace import Op, Trace, Value, quiet
from ...graph.trace import record as trace_of
from ...storage import record as _record
from ...storage.entry import changes_network

_REMAINS: dict[str, type[nn.Module]] = {"identity": nn.Identity, "relu": nn.ReLU, "relu6": nn.ReLU6}
"""What may be left of a block."""
_RELU, _CLIP = (aten.relu, aten.relu_), (aten.hardtanh, aten.hardtanh_)


@_record.register
@dataclass(frozen=True)
class DepthStep(_record.Step):
    """Residual blocks taken out of a network."""

    kind: ClassVar[str] = "depth"
    may_follow: ClassVar[frozenset[str]] = frozenset({"prune", "mask", "depth"})
    reason: ClassVar[str] = "what it stored belongs to the layers as they were"

    blocks: dict[str, str] = field(default_factory=dict)
    """Module → what is left of it: `identity`, `relu` or `relu6`."""

    def __post_init__(self) -> None:
        for path, remains in self.blocks.items():
            if not path or remains not in _REMAINS:
                raise ValueError(f"{remains!r} cannot be left of a block {path!r}")

    def apply(self, model: nn.Module) -> None:
        """Put what is left of each block in its place."""
        _put(model, _left(self.blocks))


def residual_blocks(model: nn.Module, example: Any) -> dict[str, str]:
    """Blocks that may leave the network, in the order in which they run.

    A block is a module with parameters of its own that takes one tensor and gives it back plus something of
    the same shape, or the ReLU or ReLU6 of this sum; the innermost such modules count. Blocks that change the
    size of the image or the number of channels are none, as what follows would not fit; nor are those with two
    sums (of transformers), or that share a module with others. Each is tried: the network without it has to give
    what it gives with the block's result replaced by its input.

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
        remains = _remains(trace, path) if path else None
        if (
            remains is not None
            and not _shares(model, path, module)
            and _can_go(model, example, {path: remains})
        ):
            found[path] = remains
    innermost = [path for path in found if not any(other.startswith(f"{path}.") for other in found)]
    ran = list(dict.fromkeys(op.module for op in trace.ops))
    first = {path: next(i for i, name in enumerate(ran) if within(name, path)) for path in innermost}
    return {path: found[path] for path in sorted(innermost, key=first.__getitem__)}


@changes_network
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
        InputError: no path, or one that is no such block.
        IllegalOrder: the network is quantized, or its norms are folded.
        OperationError: the forward fails on `example`, or depends on what a block is in ways that cannot be followed.
    """
    _record.check_order(model, DepthStep)
    if isinstance(blocks, str) or not blocks:
        raise InputError(
            f"blocks={blocks!r}", "it is not a list of paths", "pass some of residual_blocks(model, example)"
        )
    known = residual_blocks(model, example)
    for path in blocks:
        if path not in known:
            raise unknown("residual block", path, known)
    step = DepthStep({path: remains for path, remains in known.items() if path in set(blocks)})
    if not _can_go(model, example, step.blocks):
        raise OperationError(
            f"{type(model).__name__} without {', '.join(step.blocks)}",
            "it does not give what it would if these blocks gave back their input",
            "take out fewer blocks at once",
        )
    step.apply(model)
    _record.append(model, step)
    return step


@contextlib.contextmanager
def without_blocks(model: nn.Module, blocks: dict[str, str]) -> Iterator[None]:
    """A context in which these blocks are away."""
    with _replaced(model, _left(blocks)):
        yield


def _left(blocks: Mapping[str, str]) -> dict[str, nn.Module]:
    return {path: _REMAINS[remains]() for path, remains in blocks.items()}


def _put(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Put modules, in the modes of those that were there, in their places; those that were there."""
    before = {path: model.get_submodule(path) for path in modules}
    for path, module in modules.items():
        model.set_submodule(path, module.train(before[path].training))
    return before


@contextlib.contextmanager
def _replaced(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    before = _put(model, modules)
    try:
        yield
    finally:
        for path, block in before.items():
            model.set_submodule(path, block)


def _shares(model: nn.Module, path: str, module: nn.Module) -> bool:
    """Whether parameters of the module are used elsewhere too, or it has none."""
    own = {id(parameter) for parameter in module.parameters()}
    others = (p for name, m in model.named_modules(remove_duplicate=False) if not within(name, path)
              for p in m.parameters(recurse=False))  # fmt: skip
    return not own or not own.isdisjoint(map(id, others))


class _Shortcut(nn.Module):
    """A block whose result is replaced: what the network without the block has to be equal to."""

    def __init__(self, block: nn.Module, remains: nn.Module) -> None:
        super().__init__()
        self.block, self.remains, self.calls = block, remains, 0

    def forward(self, x: Tensor) -> Tensor:
        """What remains, of a copy; the block runs, too, for its result has to be a tensor."""
        self.calls += 1
        before = x.clone()
        if not isinstance(self.block(x), Tensor):
            raise TypeError("the block gives more than a tensor")
        result: Tensor = self.remains(before)
        return result


@torch.no_grad()
def _can_go(model: nn.Module, example: Any, blocks: dict[str, str]) -> bool:
    """Whether the network without the blocks is the network whose blocks give back their input.

    Not so where its code calls a block in another way than as its submodule, passes or takes more than one tensor,
    reads its attributes, or later changes the result in place, which now is the block's input.
    """

    def run() -> Any:
        return model(*tree_map_only(Tensor, Tensor.clone, as_args(example, model)))

    stands = {path: _Shortcut(model.get_submodule(path), left) for path, left in _left(blocks).items()}
    try:
        with quiet(model), _replaced(model, stands):
            wanted = run()
        with quiet(model), without_blocks(model, blocks):
            got = run()
        pairs = list(zip(tree_leaves(wanted), tree_leaves(got), strict=True))
    except Exception:  # whatever the user's code raises: it cannot do without the block
        return False
    once = all(stand.calls == 1 for stand in stands.values())
    return once and all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))


def within(name: str, path: str) -> bool:
    """Whether a module or parameter is the module at `path` or in it."""
    return name == path or name.startswith(f"{path}.")


def _remains(trace: Trace, path: str) -> str | None:
    """What would be left of the module; None if it is no residual block."""
    places = [i for i, op in enumerate(trace.ops) if within(op.module, path)]
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
