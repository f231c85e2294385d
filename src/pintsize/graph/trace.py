"""One recorded forward pass: every ATen op, the tensors it takes and gives, and where it ran.

The pass is an ordinary one on real tensors (no symbolic tracing), so that any Python control flow
in the user's `forward` is taken as it is.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import InputError, OperationError
from .inputs import as_args, batch_hint, batched, check_batch
from .state import keep_state, to_eval, training_undone

_Kind = TypeVar("_Kind")


@dataclass(frozen=True)
class CallKey:
    """A call that the user's code makes, the same on every pass: the n-th `function` inside `module`."""

    module: str
    """Path of the innermost module whose forward was running ('' for the root)."""
    function: str
    """Full name, e.g. 'torch.nn.functional.relu' or 'torch.Tensor.add'."""
    occurrence: int
    """Counted from 0 over one forward of the root."""


@dataclass(eq=False)
class Value:
    """A tensor that appeared during the pass."""

    shape: torch.Size
    dtype: torch.dtype
    name: str | None = None
    """Dotted name, if it is a parameter or buffer of the model."""
    is_parameter: bool = False
    constant: Tensor | None = None
    """The tensor itself, if it is neither computed in the pass nor an input nor a parameter."""


@dataclass(eq=False)
class Op:
    """One ATen call. In `args` and `kwargs` every tensor is replaced by its `Value`."""

    func: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Value]
    module: str
    call: CallKey | None
    """The user-level call this op is part of; None for ops that autograd or torch itself issued."""

    @functools.cached_property
    def inputs(self) -> list[Value]:
        """All tensor arguments, in order."""
        return list(_leaves((self.args, self.kwargs), Value))


@dataclass(eq=False)
class Trace:
    """The whole pass."""

    ops: list[Op] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    parameters: dict[str, Value] = field(default_factory=dict)
    """Parameters and buffers that the pass read, by their first name."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Other names of a shared parameter → its first name."""
    paddings: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Modules that keep the amounts of `F.pad` in an attribute `padding`, which can be changed."""
    training: Trace | None = None
    """The pass in training mode, where it reads parameters that this one does not (auxiliary heads)."""

    @property
    def all_ops(self) -> list[Op]:
        """The ops of both passes."""
        return self.ops if self.training is None else [*self.ops, *self.training.ops]

    @property
    def all_outputs(self) -> list[Value]:
        """The outputs of both passes."""
        return self.outputs if self.training is None else [*self.outputs, *self.training.outputs]

    def unread(self) -> set[str]:
        """Parameters that the outputs do not depend on."""
        read = {value.name for op in self.live() for value in op.inputs}
        return {name for name, value in self.parameters.items() if value.is_parameter and name not in read}

    def live(self) -> set[Op]:
        """The ops that the outputs of either pass depend on."""
        needed = set(self.outputs)
        found = self.training.live() if self.training is not None else set()
        for op in reversed(self.ops):
            if _mutates(op.func) or not needed.isdisjoint(op.outputs):
                needed.update(op.inputs)
                found.add(op)
        return found

    def consumers(self, ops: Sequence[Op] | None = None) -> dict[Value, list[Op]]:
        """For each value the ops that read it, of `ops` or of the pass in eval mode."""
        users: dict[Value, list[Op]] = {}
        for op in self.ops if ops is None else ops:
            for value in dict.fromkeys(op.inputs):
                users.setdefault(value, []).append(op)
        return users


def _leaves(tree: Any, kind: type[_Kind]) -> Iterator[_Kind]:
    """All of one type in what an op takes or gives: lists, tuples and dicts, in order; faster than a pytree."""
    if isinstance(tree, kind):
        yield tree
    elif isinstance(tree, list | tuple | dict):
        for one in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(one, kind)


def _with_values(tree: Any, value: Callable[[Tensor], Value]) -> Any:
    """The same with every tensor replaced by its value."""
    if isinstance(tree, Tensor):
        return value(tree)
    if isinstance(tree, list | tuple):
        made = [_with_values(one, value) for one in tree]
        return made if isinstance(tree, list) else tuple(made)
    if isinstance(tree, dict):
        return {key: _with_values(one, value) for key, one in tree.items()}
    return tree


@functools.cache
def _mutates(func: torch._ops.OpOverload) -> bool:
    return bool(func._schema.is_mutable)


def function_name(func: Callable[..., Any]) -> str:
    """The full name of a torch function; torch itself looks long for it."""
    name = _names.get(func)
    if name is None:  # a plain dictionary: torch.compile goes through this code, and takes no functools.cache
        name = _names[func] = resolve_name(func) or getattr(func, "__name__", str(func))
    return name


_names: dict[Callable[..., Any], str] = {}


class CallCounter:
    """Names each call of the running forward: tracer and quantized model count the same way."""

    def __init__(self) -> None:
        self.modules: list[str] = [""]
        self._seen: Counter[tuple[str, str]] = Counter()

    def next(self, function: str) -> CallKey:
        """The key of the call that starts now."""
        where = (self.modules[-1], function)
        self._seen[where] += 1
        return CallKey(*where, self._seen[where] - 1)


_MOODY = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
"""Layers that change or draw numbers in training."""


@contextlib.contextmanager
def quiet(model: nn.Module, *, training_paths: bool = False) -> Iterator[None]:
    """Eval mode, no gradients, and no fused attention that would hide its parts; all restored afterwards.

    So is what modules keep for their next forward; what they drop on the way to training is dropped before.
    With `training_paths` the user's own modules take the way of training, while norms and dropout do not.
    """
    training = {module: module.training for module in model.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    to_eval(model, training)
    put_back = keep_state(model)
    if training_paths:
        for module in training:
            if not (type(module).__module__.startswith("torch.nn") or isinstance(module, _MOODY)):
                module.training = True
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        put_back()
        for module, mode in training.items():
            if module.training != mode:
                module.training = mode


def record_training(model: nn.Module, example: Any, trace: Trace | None = None) -> Trace:
    """As `record`, the way that training takes; buffers and random numbers are as before afterwards."""
    with training_undone(model):
        return record(model, example, trace=trace, training_paths=True)


def record(
    model: nn.Module,
    example: Any,
    *,
    trace: Trace | None = None,
    results: list[list[Tensor]] | None = None,
    training_paths: bool = False,
) -> Trace:
    """Run `model` once in eval mode, without gradients, and note every op.

    Args:
        model: any module; its mode and its buffers are as before afterwards.
        example: an input tensor, a tuple of them, or a dict by name.
        trace: one without ops to fill, which holds the ops so far if the forward fails; parameters
            that it knows keep their values.
        results: gets, for each op, copies of what it gave.
        training_paths: let the user's modules take the way of training.

    Raises:
        OperationError: the model's forward fails on `example`.
    """
    args = as_args(example, model)
    recorder = _Recorder(model, trace if trace is not None else Trace(), results)
    for leaf in tree_flatten(args)[0]:
        if isinstance(leaf, Tensor):
            recorder.trace.inputs.append(recorder.value(leaf))
    handles = list(recorder.attach())
    try:
        with batched(model), quiet(model, training_paths=training_paths), recorder.functions, recorder:
            outputs = model(*args)
    except InputError:  # not the network's own fault: it was given one image without a batch
        raise
    except Exception as error:
        where = recorder.counter.modules[-1] or type(model).__name__
        shapes = [tuple(leaf.shape) for leaf in tree_flatten(args)[0] if isinstance(leaf, Tensor)]
        raise OperationError(
            f"forward of {type(model).__name__} on an example of shape {', '.join(map(str, shapes))}",
            f"module '{where}' raised {type(error).__name__}: {error}",
            "pass an example that the network accepts" + batch_hint(args),
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    recorder.trace.outputs = [
        recorder.value(leaf) for leaf in tree_flatten(outputs)[0] if isinstance(leaf, Tensor)
    ]
    check_batch(recorder.trace.ops, recorder.trace.inputs)
    return recorder.trace


class DispatchMode(TorchDispatchMode):
    """A dispatch mode that is never compiled: it spares the import of torch._dynamo, over a second."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class Alongside(DispatchMode):
    """A dispatch mode for a pass that issues the ops of a trace again, one by one."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._ops = iter(trace.ops)

    def op(self, func: torch._ops.OpOverload) -> Op:
        """The traced op that `func` is now.

        Raises:
            OperationError: the forward takes another way than when it was traced.
        """
        found = next(self._ops, None)
        if found is None or found.func is not func:
            where = f" in module '{found.module}'" if found is not None else ""
            raise OperationError(
                "forward of the network",
                f"{func} ran where {'nothing' if found is None else found.func} ran before{where}: "
                "which ops run depends on the values of tensors",
                "take such a branch out, or pass ignore= for the layers around it and fold_constants=False",
            )
        return found


class _Recorder(DispatchMode):
    """Notes the ATen ops; `functions` beside it notes which user-level call they belong to."""

    def __init__(self, model: nn.Module, trace: Trace, results: list[list[Tensor]] | None) -> None:
        super().__init__()
        self.model = model
        self.trace = trace
        self.results = results
        self.counter = CallCounter()
        self.functions = _Functions(self.counter)
        self._values = WeakTensorKeyDictionary()  # what the network lets go is let go here too
        for path, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                raise InputError(
                    f"module '{path}'",
                    "it is compiled by TorchScript, which hides its layers",
                    "pass the network as it was before torch.jit.script or torch.jit.trace",
                )
            padding = getattr(module, "padding", None)
            if isinstance(padding, tuple) and all(type(amount) is int for amount in padding):
                self.trace.paddings[path] = padding
        tensors = [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]
        for name, tensor in tensors:
            known = self._values.get(tensor)
            if known is not None:
                assert known.name is not None
                self.trace.aliases[name] = known.name
                continue
            value = self.trace.parameters.get(name) or Value(
                tensor.shape, tensor.dtype, name, isinstance(tensor, nn.Parameter)
            )
            self.trace.parameters[name] = self._note(tensor, value)

    def _note(self, tensor: Tensor, value: Value) -> Value:
        self._values[tensor] = value
        return value

    def value(self, tensor: Tensor, *, constant: bool = False) -> Value:
        """The value of `tensor`, made if it is new."""
        found: Value | None = self._values.get(tensor)
        if found is None:
            found = self._note(
                tensor, Value(tensor.shape, tensor.dtype, constant=tensor if constant else None)
            )
        return found

    def attach(self) -> Iterator[torch.utils.hooks.RemovableHandle]:
        """Hooks that keep the path of the running module."""
        for name, module in self.model.named_modules():
            yield module.register_forward_pre_hook(
                lambda _m, _a, name=name: self.counter.modules.append(name)
            )
            yield module.register_forward_hook(self._leave)

    def _leave(self, *_: Any) -> None:
        self.counter.modules.pop()

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        noted = _with_values((args, kwargs), lambda t: self.value(t, constant=True))
        # held until the next op, as other passes hold it: else PyTorch issues no detach behind torch.linspace and its like
        self._held = result = func(*args, **kwargs)
        outputs = [self.value(leaf) for leaf in _leaves(result, Tensor)]
        self.trace.ops.append(
            Op(func, noted[0], noted[1], outputs, self.counter.modules[-1], self.functions.current)
        )
        if self.results is not None:
            with _disable_current_modes():  # the copies are no part of the pass
                self.results.append([t.clone() for t in _leaves(result, Tensor)])
        return result


class _Functions(TorchFunctionMode):
    """Knows the outermost torch function that is running."""

    def __init__(self, counter: CallCounter) -> None:
        super().__init__()
        self.counter = counter
        self.current: CallKey | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if self.current is not None:  # inside another call: belongs to that one
            return func(*args, **(kwargs or {}))
        self.current = self.counter.next(function_name(func))
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.current = None
