"""The one place that says what in a batch is for the network, and what is its target.

A batch is `inputs` or `(inputs, targets)`, or a dict of both. Inputs are one tensor [B, …], or the arguments of a
network that takes several: a tuple, or a dict by name; or a list of images of several sizes. Targets are anything.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import InputTypeError
from ..graph.inputs import accepts, as_tensors, by_name, parameters_of
from . import chance
from .names import IMAGES, MASKS, TARGETS
from .pixels import scaled
from .split import Split

Inputs = Tensor | tuple[Any, ...] | list[Tensor]
"""One tensor; or the positional arguments of a network that takes something else; or images [C, H, W] in a list, which
is one argument."""

_NEVER_SEEN = TARGETS - MASKS
"""Optional parameters of these names are no inputs; a mask may be one."""
_TAKES: weakref.WeakKeyDictionary[nn.Module, dict[tuple[str, ...], bool]] = weakref.WeakKeyDictionary()
"""Network → names in a dict → whether it is called with such a dict."""


def split_batch(
    batch: Any, model: nn.Module | None = None, *, names: Sequence[str] = ()
) -> tuple[Inputs, Any]:
    """What of a batch the network is called with, and the targets (None without any).

    Args:
        batch: of a loader, arrays or tensors; see the module.
        model: the network: how many inputs it takes and how they are called decide what `(a, b)` and a dict mean.
        names: of a file's inputs, in its order, where there is no network: what a dict has under them.

    Raises:
        InputTypeError: there is nothing in it that a network could look at.
    """
    batch, bytes_of = scaled(batch)
    batch = as_tensors(batch)
    named = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if isinstance(named, Mapping) and names and set(names) <= set(named):
        inputs, targets = tuple(named[name] for name in names), _beside(batch, names)
    elif isinstance(batch, Mapping):
        inputs, targets = _of_mapping(batch, model)
    elif isinstance(batch, tuple | list) and batch:
        inputs, targets = _of_sequence(list(batch), model)
    else:
        inputs, targets = batch, None
    _check(inputs, batch)
    if bytes_of:  # of targets they stay
        targets = tree_map_only(Tensor, lambda one: bytes_of.get(id(one), one), targets)
    return inputs, targets


def _beside(batch: Any, names: Sequence[str]) -> Any:
    """The targets of a batch whose inputs have these names."""
    rest = (
        [value for name, value in batch.items() if name not in names]
        if isinstance(batch, Mapping)
        else list(batch[1:])
    )
    return None if not rest else rest[0] if len(rest) == 1 else tuple(rest)


def batches_of(
    source: Any,
    *,
    limit: int | None = None,
    model: nn.Module | None = None,
    batch_size: int = 256,
    shuffle: bool = False,
) -> Iterator[tuple[Inputs, Any]]:
    """Inputs and targets of a split, of any iterable of batches, or of one tensor.

    Args:
        source: a split, of which `limit` images are chosen by class; an iterable; or one batch as a tensor or array.
        limit: how many images to give out at most; None for all.
        model: see `split_batch`.
        batch_size: of a split.
        shuffle: of a split.

    Raises:
        InputTypeError: the source is none of these.
        InputError: `limit` is not a whole number of at least 1.
    """
    if limit is not None:
        chance.check_whole("limit", limit, least=1)
    if isinstance(source, Tensor | np.ndarray):
        source = [source]
    if isinstance(source, Split):
        source = (source if limit is None else source.at_most(limit)).batches(batch_size, shuffle=shuffle)
    elif hasattr(source, "batches"):
        source = source.batches(batch_size)
    if not isinstance(source, Iterable) or isinstance(source, Mapping | str):
        raise InputTypeError(
            f"data of type {type(source).__name__}",
            "it gives out no batches",
            "pass a split such as data.train, or an iterable of batches",
        )
    return _limited(source, limit, model)


def images_of(
    source: Iterable[Any] | Tensor, limit: int | None = None, *, model: nn.Module | None = None
) -> Iterator[Inputs]:
    """The inputs in the batches of a split, of any iterable of batches, or of one batch.

    Args:
        source: a `Split`, which is shuffled (of an image folder the first images are all of one class), `limit`
            images of it chosen by class; an iterable of batches, see `split_batch`; or one image tensor
            [B, C, H, W].
        limit: how many images to give out at most; None for all.
        model: the network they are for, if it takes several inputs or batches are dicts.

    Returns:
        Iterator of floating-point image tensors [B, …]; of tuples of arguments where the network takes several.

    Raises:
        InputTypeError: the source is none of these.
        InputError: `limit` is not a whole number of at least 1.
    """
    return (inputs for inputs, _ in batches_of(source, limit=limit, model=model, shuffle=True))


def _limited(
    source: Iterable[Any], left: int | None, model: nn.Module | None
) -> Iterator[tuple[Inputs, Any]]:
    for batch in source:
        inputs, targets = split_batch(batch, model)
        if left is None:
            yield inputs, targets
            continue
        count = size(inputs)
        yield (
            (inputs, targets) if count <= left else (rows(inputs, 0, left), rows(targets, 0, left, of=count))
        )
        left -= count
        if left <= 0:
            return


def example_of(split: Any, model: nn.Module | None = None, count: int = 2) -> Inputs:
    """The first `count` images of a split, to trace a network with."""
    inputs, _ = split_batch(next(iter(split.batches(batch_size=count))), model)
    found: Inputs = rows(inputs, 0, count)
    return found


def arrays(inputs: Inputs, count: int = 1) -> tuple[np.ndarray[Any, Any], ...]:
    """The first `count` images as a runtime takes them."""
    return tuple(
        leaf.cpu().numpy() for leaf in tree_leaves(rows(inputs, 0, count)) if isinstance(leaf, Tensor)
    )


def run(model: nn.Module, inputs: Inputs) -> Any:
    """The network's outputs for the inputs of a batch."""
    return model(*arguments(inputs))


def arguments(inputs: Inputs) -> tuple[Any, ...]:
    """The inputs as positional arguments."""
    return inputs if isinstance(inputs, tuple) else (inputs,)


def size(inputs: Inputs) -> int:
    """How many images there are."""
    if isinstance(inputs, list):
        return len(inputs)
    if isinstance(inputs, tuple) and inputs and isinstance(inputs[0], list):
        return len(inputs[0])
    return next((len(leaf) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()), 0)


def rows(values: Any, start: int, end: int, *, of: int | None = None) -> Any:
    """Images `start` to `end` of inputs or targets of `of` images; what has not one entry for each stays whole."""
    count = size(values) if of is None else of
    if isinstance(values, Tensor):
        return values[start:end] if values.dim() and len(values) == count else values
    if isinstance(values, Mapping):
        return {key: rows(value, start, end, of=count) for key, value in values.items()}
    if isinstance(values, tuple):
        return tuple(rows(value, start, end, of=count) for value in values)
    return values[start:end] if isinstance(values, list) and len(values) == count else values


def moved(values: Any, device: torch.device | str) -> Any:
    """Inputs or targets with their tensors on `device`; what is no tensor stays."""
    return tree_map_only(Tensor, lambda leaf: leaf.to(device), values)


def class_labels(targets: Any, count: int) -> Tensor | None:
    """Targets as classes int64 [B], if they are one whole number for each of `count` images; else None."""
    if isinstance(targets, list | tuple) and all(type(one) is int for one in targets):
        targets = torch.tensor(targets, dtype=torch.int64)
    whole = isinstance(targets, Tensor) and not (
        targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool
    )
    return targets.long() if whole and targets.shape == (count,) else None


def _of_sequence(batch: list[Any], model: nn.Module | None) -> tuple[Any, Any]:
    first, rest = batch[0], batch[1:]
    if isinstance(first, Mapping):
        inputs: Any = _named(first, model)
    elif isinstance(first, tuple | list):
        inputs = tuple(first)
        if images_apart(first, rest, model):
            inputs, *rest = one_by_one([first, *rest])
    else:
        count = 1 if model is None else max(1, len(_required(model)))
        if count > 1 and len(batch) >= count and all(isinstance(one, Tensor) for one in batch[:count]):
            inputs, rest = tuple(batch[:count]), batch[count:]
        else:
            inputs = first
    return inputs, None if not rest else rest[0] if len(rest) == 1 else tuple(rest)


def images_apart(first: Sequence[Any], rest: Sequence[Any], model: nn.Module | None = None) -> bool:
    """Whether what stands first in a batch is images one by one, as detectors take them, not several inputs.

    Args:
        first: a list or tuple.
        rest: of the batch.
        model: the network, if it is known: that it takes fewer inputs than there are tensors tells it, too.
    """
    if not first or not all(isinstance(one, Tensor | np.ndarray) for one in first):
        return False
    targets = rest[0] if len(rest) == 1 else None
    if (
        isinstance(targets, list | tuple)
        and len(targets) == len(first)
        and all(isinstance(one, Mapping) for one in targets)
    ):
        return True  # a dict for each image
    if any(one.ndim != 3 for one in first):
        return False
    if model is None:
        return len({len(one) for one in first}) == 1 and len(first[0]) in (1, 3, 4)
    needed = _required(model)
    taken = [name for name in parameters_of(model) if name in needed or name.lower() not in _NEVER_SEEN]
    return 0 < len(taken) < len(first)


def one_by_one(batch: Sequence[Any]) -> list[Any]:
    """A batch of images one by one with lists for tuples: of a tuple `rows` takes it that each part has all images."""
    return [list(part) if isinstance(part, tuple) else part for part in batch]


def _of_mapping(batch: Mapping[str, Any], model: nn.Module | None) -> tuple[Any, Any]:
    """Inputs are what `forward` calls so; else what is called as images are; else all, for a network that takes a dict."""
    parameters = {} if model is None else parameters_of(model)
    needed = [] if model is None else _required(model)
    chosen = [
        name for name in batch if name in parameters and (name in needed or name.lower() not in TARGETS)
    ]
    if not chosen or not set(needed) <= set(chosen):
        chosen = _by_custom(batch, model)
    rest = {name: value for name, value in batch.items() if name not in chosen}
    targets = None if not rest else next(iter(rest.values())) if len(rest) == 1 else rest
    given = {name: batch[name] for name in chosen}
    if len(given) == 1 and not given.keys() <= parameters.keys():
        return ((given,) if _takes_dict(model, given) else next(iter(given.values()))), targets
    return _named(given, model), targets


def _by_custom(batch: Mapping[str, Any], model: nn.Module | None) -> list[str]:
    """The inputs in a dict whose names `forward` does not know."""
    others = [name for name in batch if str(name).lower() not in TARGETS]
    if len(others) > 1 and _takes_dict(model, {name: batch[name] for name in others}):
        return others
    named = [name for name in others if str(name).lower() in IMAGES]
    seen = [name for name in others if isinstance(batch[name], Tensor) and batch[name].is_floating_point()]
    for found in (named, seen):
        if len(found) == 1:
            return found
    raise InputTypeError(
        f"a batch with {', '.join(map(repr, batch)) or 'nothing in it'}",
        "it is not clear which of them the network takes",
        "name them as the parameters of its forward, or give out (inputs, targets)",
    )


def _takes_dict(model: nn.Module | None, given: Mapping[str, Any]) -> bool:
    """Whether the network is called with the dict whole, which only trying can tell; once for the same names."""
    if model is None:
        return False
    known = _TAKES.setdefault(model, {})
    names = tuple(map(str, given))
    if names not in known:
        one = rows(dict(given), 0, 1)
        known[names] = not (len(one) == 1 and accepts(model, tuple(one.values()))) and accepts(model, (one,))
    return known[names]


def _named(given: Mapping[str, Any], model: nn.Module | None) -> Any:
    """Inputs by name as one tensor or as arguments."""
    if model is None:
        return next(iter(given.values())) if len(given) == 1 else (dict(given),)
    args = by_name(given, model)
    return args[0] if len(args) == 1 and isinstance(args[0], Tensor) else args


def _required(model: nn.Module) -> list[str]:
    return [name for name, parameter in parameters_of(model).items() if parameter.default is parameter.empty]


def _check(inputs: Any, batch: Any) -> None:
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if any(leaf.is_floating_point() and leaf.dim() > 1 for leaf in tensors):
        return
    if any(leaf is inputs for leaf in tensors) or (tensors and isinstance(inputs, tuple)):
        told = f"{tensors[0].dtype} tensor of shape {tuple(tensors[0].shape)}"
    else:
        told = type(batch).__name__
    raise InputTypeError(
        f"a batch that is a {told}",
        "images are floating-point tensors [B, C, H, W]",
        "give out image tensors, or pairs (inputs, targets); bring bytes to floats as the network was trained with",
    )
