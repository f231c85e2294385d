"""Evaluate a network again and again with one layer changed: what ran before that layer is not computed anew.

One probing forward notes when each module is entered and left and which tensors each operation reads. For a
layer, all module calls that are over before it is first entered are its prefix. Their outputs that are read
outside of the prefix are stored, batch by batch; when the network runs, those calls give the stored tensors
back. The user's `forward` runs as it is, so functional operations between the modules are right by themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

from ...data.batches import Inputs, rows, run, size
from ...graph.trace import quiet
from ...tasks import Task
from ...tasks.metric import value_of
from ...training.evaluation import score

Batch = tuple[Inputs, Any]
"""Inputs and targets on the network's device."""
_Key = tuple[str, int]
"""A call: path of the module, and which of its calls in one forward, from 0."""


@dataclass(eq=False)
class _Call:
    key: _Key
    entered: int
    left: int = -1
    inner: Counter[str] = field(default_factory=Counter)
    """Calls of modules inside this one."""
    outputs: tuple[int, ...] = ()
    bytes: int = 0
    """Of the output, for one image."""


class _Reached(Exception):
    """The forward has come to the layer."""


class Prefix:
    """A context in which `model` runs over `batches` from a chosen layer on.

    Args:
        model: in it, its modules' `forward` is wrapped; as before afterwards.
        batches: in memory.
        task: by which the network is judged.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Batch], task: Task) -> None:
        self.model, self.task = model, task
        self._batches = batches
        self._calls: list[_Call] = []
        self._reads: list[tuple[int, tuple[int, ...]]] = []
        self._seen: Counter[str] = Counter()
        self._batch = 0
        self._skipped: dict[_Key, _Call] = {}
        self._stored: list[dict[_Key, Any]] = []
        self._shapes: dict[_Key, Any] = {}
        self._capture: _Capture | None = None
        self._wrapped: list[tuple[nn.Module, Any]] = []
        self._expected: list[Any] = []

    def __enter__(self) -> Prefix:
        with quiet(self.model):
            self._probe(rows(self._batches[0][0], 0, 2))
        for path, module in self.model.named_modules():
            if path:
                self._wrapped.append((module, module.__dict__.get("forward")))
                module.forward = self._wrapper(path, module.forward)
        self.use(self._batches)
        return self

    def __exit__(self, *_: object) -> None:
        for module, before in self._wrapped:
            del module.forward
            if before is not None:
                module.forward = before
        self._wrapped = []

    def use(self, batches: Sequence[Batch]) -> None:
        """Go over to other batches, from the beginning of the network."""
        images, labels = batches[0]
        self._batches = [(images[:2], labels[:2]), *batches]  # on the first two images the prefix is tried
        self._forget()
        self._expected = self._trial()

    def _forget(self) -> None:
        self._skipped, self._shapes = {}, {}
        self._stored = [{} for _ in self._batches]

    def order(self, layers: Iterable[str]) -> int | None:
        """When the first of `layers` is entered; None if one is never called, so that its prefix is unknown."""
        first = {call.key[0]: call.entered for call in reversed(self._calls)}
        times = [first.get(layer) for layer in layers]
        return None if not times or None in times else min(t for t in times if t is not None)

    def bytes_per_image(self, layers: Iterable[str]) -> int:
        """Memory that the prefix of `layers` takes for one image."""
        time = self.order(layers)
        return 0 if time is None else sum(call.bytes for call in self._needed(self._outer(time)))

    @torch.no_grad()
    def advance(self, layers: Iterable[str]) -> None:
        """Store what the prefix of `layers` gives; it must not begin before that of the call before."""
        time = self.order(layers)
        if time is None:
            self._forget()
            return
        outer = self._outer(time)
        needed = {call.key for call in self._needed(outer)}
        at = next(call.key for call in self._calls if call.entered == time)
        self._capture = _Capture({call.key: call for call in outer}, needed, at)
        stored: list[dict[_Key, Any]] = []
        with quiet(self.model):
            for number, (images, _) in enumerate(self._batches):
                self._batch, self._capture.found = number, {}
                self._seen.clear()
                try:
                    run(self.model, images)
                except _Reached:
                    stored.append(self._capture.found)
        self._skipped, self._shapes = self._capture.outer, {**self._shapes, **self._capture.shapes}
        self._stored, self._capture = stored, None
        if not all(torch.equal(a, b) for a, b in zip(self._trial(), self._expected, strict=True)):
            self._forget()  # the forward does something with the prefix that its operations do not show

    def score(self) -> tuple[float, float]:
        """The loss summed over the images, and their metric times their number in hundreds: correct predictions."""
        found = score(self.model, self._numbered(), self.task)
        if self.task.key == "accuracy":
            return found.loss, int(torch.as_tensor(found.records).sum())
        return found.loss, value_of(self.task.judged(), found.records) * found.count / 100

    def _numbered(self) -> Iterable[Batch]:
        for number, batch in enumerate(self._batches[1:], 1):
            self._batch = number
            self._seen.clear()
            yield batch

    def _trial(self) -> list[Any]:
        self._batch = 0
        self._seen.clear()
        with quiet(self.model):
            return tree_flatten(run(self.model, self._batches[0][0]))[0]

    def _outer(self, time: int) -> list[_Call]:
        """The calls that are over before `time`, without those inside another of them."""
        over = sorted((c for c in self._calls if c.left < time), key=lambda c: c.entered)
        outer: list[_Call] = []
        for call in over:
            if not outer or call.entered > outer[-1].left:
                outer.append(call)
        return outer

    def _needed(self, outer: Sequence[_Call]) -> list[_Call]:
        """Those whose output is read outside of them all."""
        made = {output: call for call in outer for output in call.outputs}  # the last one that gave it counts
        found: dict[_Key, _Call] = {}
        position = 0
        for time, tensors in self._reads:
            while position < len(outer) and outer[position].left < time:
                position += 1
            inside = position < len(outer) and outer[position].entered < time
            for tensor in () if inside else tensors:
                if tensor in made and made[tensor].left < time:
                    found[made[tensor].key] = made[tensor]
        return list(found.values())

    def _probe(self, images: Inputs) -> None:
        clock, alive = (
            [0],
            [leaf for leaf in tree_leaves(images) if isinstance(leaf, Tensor)],
        )  # ids are unique only among living tensors
        open_calls: list[_Call] = []
        seen: Counter[str] = Counter()
        prefix = self

        class Reads(TorchDispatchMode):
            def __torch_dispatch__(
                self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
            ) -> Any:
                clock[0] += 1
                tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
                alive.extend(tensors)
                prefix._reads.append((clock[0], tuple(map(id, tensors))))
                return func(*args, **(kwargs or {}))

        def enter(path: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _args: Any) -> None:
                clock[0] += 1
                for call in open_calls:
                    call.inner[path] += 1
                open_calls.append(_Call((path, seen[path]), clock[0]))
                seen[path] += 1
                prefix._calls.append(open_calls[-1])

            return hook

        def leave(_module: nn.Module, _args: Any, result: Any) -> None:
            clock[0] += 1
            call = open_calls.pop()
            call.left = clock[0]
            tensors = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
            alive.extend(tensors)
            call.outputs = tuple(map(id, tensors))
            call.bytes = sum(t.numel() * t.element_size() for t in tensors) // max(size(images), 1)

        handles = []
        for path, module in self.model.named_modules():
            if path:
                handles += [
                    module.register_forward_pre_hook(enter(path)),
                    module.register_forward_hook(leave),
                ]
        try:
            with Reads():
                run(self.model, images)
        finally:
            for handle in handles:
                handle.remove()

    def _wrapper(self, path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            key = (path, self._seen[path])
            self._seen[path] += 1
            capture = self._capture
            if capture is not None and key == capture.at:
                raise _Reached
            if key in self._skipped:
                self._seen.update(self._skipped[key].inner)
                result = self._give(key)
            else:
                result = forward(*args, **kwargs)
            if capture is not None and key in capture.outer:
                capture.keep(key, result)
            return result

        return wrapped

    def _give(self, key: _Key) -> Any:
        stored = self._stored[self._batch]
        if key in stored:
            return tree_map_only(Tensor, torch.clone, stored[key])  # it may be written to
        batch = size(self._batches[self._batch][0])
        return tree_map_only(_Shape, lambda shape: shape.empty(batch), self._shapes[key])


@dataclass(frozen=True)
class _Shape:
    """What is left of a tensor whose values nobody reads."""

    sizes: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    batch: int

    def empty(self, batch: int) -> Tensor:
        """Zeros of that shape for another number of images, in no memory."""
        sizes = [batch if d == 0 and size == self.batch else size for d, size in enumerate(self.sizes)]
        return torch.zeros((), dtype=self.dtype, device=self.device).expand(sizes)


@dataclass(eq=False)
class _Capture:
    """What one pass up to a layer collects."""

    outer: dict[_Key, _Call]
    needed: set[_Key]
    at: _Key
    found: dict[_Key, Any] = field(default_factory=dict)
    shapes: dict[_Key, Any] = field(default_factory=dict)

    def keep(self, key: _Key, result: Any) -> None:
        """Store the output of an outer call, or its shape."""
        if key in self.needed:
            self.found[key] = tree_map_only(Tensor, torch.clone, result)
        self.shapes[key] = tree_map_only(
            Tensor, lambda t: _Shape(tuple(t.shape), t.dtype, t.device, t.shape[0] if t.dim() else 0), result
        )
