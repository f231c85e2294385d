"""Where batches of one's own come from: that they come again in every epoch, how many images there are, what is cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)

from ..errors import InputError, InputTypeError
from . import chance

Source = DataLoader[Any] | Dataset[Any] | Sequence[Any] | Callable[[], Iterable[Any]]
"""Batches, again and again; a `Dataset` gives single examples, of which batches are made."""
_KEPT = (
    "batch_size", "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context",
    "prefetch_factor", "persistent_workers",
)  # fmt: skip
"""What a loader is asked for that holds for the part that is cut off, too."""


def checked(source: Any, part: str) -> Any:
    """The source, if it looks as if its batches could be gone through more than once.

    Raises:
        InputTypeError: it gives no batches, or each of them once.
    """
    if isinstance(source, IterableDataset):
        raise InputTypeError(
            f"{part}= {type(source).__name__}", "it streams single examples, which cannot be picked into batches",
            "pass a loader of it: DataLoader(data_set, batch_size=…)",
        )  # fmt: skip
    if isinstance(source, Iterator):
        raise once(source, part)
    known = isinstance(source, Dataset) and hasattr(source, "__len__")
    if isinstance(source, str | bytes | Mapping | Tensor) or not (
        known or isinstance(source, Iterable) or callable(source)
    ):
        raise InputTypeError(
            f"{part}= {type(source).__name__}", "it gives no batches",
            "pass a DataLoader, a Dataset, a list of batches, or a function that returns an iterator",
        )  # fmt: skip
    return source


def once(source: Any, part: str) -> InputTypeError:
    """The error for a source that can be gone through but once."""
    return InputTypeError(
        f"{part}= a {type(source).__name__}", "it gives its batches once, and every epoch needs them",
        "pass what can be gone through again: the loader itself, of a data set whose __iter__ begins anew, a list, or a "
        "function that returns a fresh iterator",
    )  # fmt: skip


def restarts(source: Any) -> bool:
    """Whether it begins anew by how it is made; of others only going through them can tell."""
    if isinstance(source, DataLoader):
        orders = source.sampler, source.batch_sampler
        return not isinstance(source.dataset, IterableDataset) and not any(
            isinstance(one, Iterator) for one in orders
        )
    return isinstance(source, Dataset | Sequence)


def goes_on(source: Any) -> bool:
    """Whether it hands out the same iterator again, which may or may not begin anew."""
    stream = source.dataset if isinstance(source, DataLoader) else source
    return not isinstance(stream, Iterable) or iter(stream) is iter(stream)


def length(source: Any) -> int | None:
    """How many images there are, where that is known without going through them."""
    if not isinstance(source, DataLoader):
        return len(source) if isinstance(source, Dataset) else None  # type: ignore[arg-type]
    if source.batch_size is None or type(source.batch_sampler) not in (BatchSampler, type(None)):
        return None  # batches are of a size that somebody else knows
    counted: Any = source.dataset if isinstance(source.dataset, IterableDataset) else source.sampler
    if not hasattr(counted, "__len__"):
        return None
    count = len(counted)
    return count - count % source.batch_size if source.drop_last else count


def cut(source: Any, fraction: float, seed: int) -> tuple[Any, Any]:
    """`source` without a share of its examples, and that share; what a loader was asked for stays.

    Raises:
        InputError: `fraction` is none, or what the source gives out cannot be cut.
    """
    if not 0 < fraction < 1:
        raise InputError(
            f"val_fraction={fraction!r}", "it is not between 0 and 1", "pass a share such as 0.1"
        )
    examples: Any = source.dataset if isinstance(source, DataLoader) else source
    sized = isinstance(examples, Dataset) and hasattr(examples, "__len__")
    if sized and len(examples) < 2:
        raise InputError(
            f"train= {type(examples).__name__} of {len(examples)} examples",
            "a validation split is cut from it, and one of them has to be left",
            "pass two examples or more, or val= as well",
        )  # fmt: skip
    if not sized or isinstance(examples, IterableDataset):
        raise InputError(
            "val=None", "a validation split cannot be cut from batches that are made already",
            "pass val=, or a Dataset as train=",
        )  # fmt: skip
    if isinstance(source, DataLoader):
        _check_rebuilt(source)
    order = chance.order(len(examples), chance.VALIDATION, seed)
    count = min(len(order) - 1, max(1, round(fraction * len(order))))
    val, train = (Subset(examples, part.sort().values.tolist()) for part in (order[:count], order[count:]))
    if not isinstance(source, DataLoader):
        return train, val
    options: dict[str, Any] = {name: getattr(source, name) for name in _KEPT}
    sampler = (
        RandomSampler(train, generator=source.sampler.generator)
        if isinstance(source.sampler, RandomSampler)
        else None
    )
    # the share judges: it is given out in order, and none of it is dropped
    return DataLoader(
        train, sampler=sampler, drop_last=source.drop_last, generator=source.generator, **options
    ), DataLoader(val, **options)


def _check_rebuilt(source: DataLoader[Any]) -> None:
    """Raise if a loader of a part of the examples would not do what this one does."""
    sampler: Any = source.sampler
    odd = None
    if source.batch_size is None:
        odd = "batch_sampler" if source.batch_sampler is not None else "batch_size=None"
    elif type(sampler) is RandomSampler:
        odd = "sampler" if sampler.replacement or sampler.num_samples != len(sampler.data_source) else None
    elif type(sampler) is not SequentialSampler:
        odd = "sampler"
    if type(source).__iter__ is not DataLoader.__iter__:
        odd = "__iter__"
    if odd is not None:
        raise InputError(
            "val=None", f"a validation split cannot be cut from a loader with its own {odd}, made for all its examples",
            "cut the data set and pass a loader of each part: train=, val=",
        )  # fmt: skip
