"""Data of one's own: loaders, data sets, lists or functions, as splits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from ..errors import InputError, InputTypeError, OperationError
from ..graph.inputs import as_tensors
from ..storage.digests import digest, tensor_digest
from . import chance, sources
from .batches import images_apart, moved, one_by_one, rows, size, split_batch
from .names import TARGETS
from .pixels import as_floats
from .sources import Source
from .split import Data
from .targets import are_images


def from_loaders(
    train: Source,
    val: Source | None = None,
    test: Source | None = None,
    *,
    task: Any = None,
    classes: Sequence[str] | int = (),
    collate: Callable[[list[Any]], Any] | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    name: str = "loaders",
) -> Data:
    """Splits of batches that one's own loaders make: everything that takes data takes them.

    A batch is `inputs` or `(inputs, targets)`: inputs a tensor, a tuple or a dict, targets anything. Loaders augment,
    shuffle and normalise as they always do; uint8 images that the network looks at are divided by 255, and those that a
    restoration aims at.

    Args:
        train: a `DataLoader`, a `Dataset`, a list of batches, or a function that returns a fresh iterator of batches.
        val: likewise; None: cut from `train` by `seed`, where that is a `Dataset` or a `DataLoader` of one, without a
            sampler of its own; the rest of the loader's options stay.
        test: likewise; None: that of `val`.
        task: what the network is for: a name of `pintsize.tasks.list()`, a mapping, or a `pintsize.Task`; by default
            imitation, where batches have no targets, else classification.
        classes: their names, or how many there are; needed for nothing but names in files and reports.
        collate: for a `Dataset`: makes a batch of a list of examples; by default torch's, and lists where examples
            differ in size.
        val_fraction: share of `train` that is cut off.
        seed: of that cut and, for a `Dataset`, of the order in training.
        name: for reports.

    Raises:
        InputTypeError: a source that gives its batches once, or gives none.
        InputError: no validation split can be cut; some parts have targets and others none, or it is not clear which
            part of a batch they are.
        OperationError: a source fails, or has no batch in it.
    """
    if val is None:
        train, val = sources.cut(sources.checked(train, "train"), val_fraction, seed)
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
    given = {"train": train, "val": val} | ({} if test is None else {"test": test})
    parts = {
        part: LoaderSplit(source, part, classes=names, collate=collate, task=task)
        for part, source in given.items()
    }
    if task is None and not _labelled(parts):
        task = "imitation"
        parts = {part: split.for_task(task) for part, split in parts.items()}
    parts.setdefault("test", parts["val"])
    shape = parts["train"].image_shape
    return Data(name, parts["train"], parts["val"], parts["test"], names, shape, (), (), task)  # type: ignore[arg-type]


class LoaderSplit:
    """A split whose batches a loader, data set, list or function makes.

    Args:
        source: see `from_loaders`.
        part: its name, for errors.
        classes: names of the classes.
        collate: see `from_loaders`.
        task: what networks are to do with it.
        limit: give out so many images.
    """

    transform = None

    def __init__(
        self,
        source: Source,
        part: str,
        *,
        classes: tuple[str, ...] = (),
        collate: Callable[[list[Any]], Any] | None = None,
        task: Any = None,
        limit: int | None = None,
    ) -> None:
        self._source, self._part, self._limit = sources.checked(source, part), part, limit
        self.classes, self.task = classes, task
        self._collate = collate or _collated
        self._count = sources.length(source)
        with torch.random.fork_rng(devices=[]):  # a loader draws its order from the global generator
            self._first = self._begun()

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of one image: the first floating-point input of the first batch without its batch dimension."""
        leaves = [leaf for leaf in _seen(self._one()) if leaf.dim() > 1]
        return tuple(leaves[0].shape[1:]) if leaves else ()

    @property
    def labelled(self) -> bool | None:
        """Whether its batches have targets; None where that is not clear: a dict of several things of any names."""
        batch = self._first
        if isinstance(batch, Mapping):
            known = any(str(name).lower() in TARGETS for name in batch)
            return known or (None if len(batch) > 1 else False)
        return split_batch(self._one())[1] is not None

    def __len__(self) -> int:
        if self._count is None:
            self._count = sum(_images(batch) for batch in self._raw(256, None))
        return self._count if self._limit is None else min(self._count, self._limit)

    def __iter__(self) -> Iterator[Any]:
        return self.batches()

    def __repr__(self) -> str:
        return f"LoaderSplit({self._part} of {type(self._source).__name__})"

    def num_batches(self, batch_size: int = 256, *, drop_last: bool = False) -> int:
        """How many batches `batches` gives out: of a loader as many as it has."""
        if isinstance(self._source, Dataset):
            return len(self) // batch_size if drop_last else -(-len(self) // batch_size)
        if self._limit is None and hasattr(self._source, "__len__"):
            return len(self._source)
        return sum(1 for _ in self.batches(batch_size))

    def batches(
        self,
        batch_size: int = 256,
        *,
        shuffle: bool = False,
        augment: bool = False,  # noqa: ARG002 (loaders augment as they do)
        seed: int = 0,
        epoch: int = 0,
        device: str | torch.device = "cpu",
        drop_last: bool = False,
    ) -> Iterator[Any]:
        """Give out the split once; the sizes and the order of a loader's batches are its own.

        Args:
            batch_size: examples in a batch that is made of a `Dataset`.
            shuffle: a `Dataset`, in an order that (seed, epoch) determines.
            augment: has no meaning here.
            seed: of the order.
            epoch: of the order; a loader's sampler with `set_epoch` is told, too.
            device: where the tensors of a batch go.
            drop_last: leave out a last batch with fewer examples, of a `Dataset`.

        Raises:
            OperationError: the loader fails, or has nothing more to give.
        """
        order = None
        if shuffle and isinstance(self._source, Dataset):
            order = chance.order(len(self._source), chance.SHUFFLE, seed, epoch).tolist()  # type: ignore[arg-type]
        elif isinstance(self._source, DataLoader) and hasattr(self._source.sampler, "set_epoch"):
            self._source.sampler.set_epoch(epoch)
        left, given = len(self) if self._limit is not None else None, False
        for batch in self._raw(batch_size, order, drop_last=drop_last):
            if left is not None and left <= 0:
                break
            given = True
            yield self._given_out(moved(as_tensors(batch if left is None else _at_most(batch, left)), device))
            left = None if left is None else left - _images(batch)
        if not given:
            raise self._empty()

    def subset(self, n: int, seed: int = 0) -> LoaderSplit:
        """The first `n` images; of a `Dataset` of classes or anything else a choice by `seed`."""
        chance.check_whole("n", n, least=1)
        if n > len(self):
            raise InputError(f"subset of {n} images", f"the split has only {len(self)}", "ask for fewer")
        split = copy.copy(self)
        if isinstance(self._source, Dataset):
            chosen = chance.order(len(self._source), chance.SUBSET, seed)[:n].sort().values  # type: ignore[arg-type]
            split._source, split._count = Subset(self._source, chosen.tolist()), n
        else:
            split._limit = n
        return split

    def at_most(self, n: int, seed: int = 0) -> LoaderSplit:
        """`subset`, or all where there are no more."""
        return self.subset(min(n, len(self)), seed)

    def for_task(self, task: Any) -> LoaderSplit:
        """The same batches for another task."""
        split = copy.copy(self)
        split.task = task
        return split

    def digest(self) -> str:
        """Of the number of images and of the first batch: a loader's whole content is not cheap to read."""
        return digest([len(self), _printed(self._one())])

    def _one(self) -> Any:
        return self._given_out(as_tensors(self._first))

    def _given_out(self, batch: Any) -> Any:
        return as_floats(batch, of_images=are_images(self.task))

    def _begun(self) -> Any:
        """The first batch, of a source that has proved to begin anew."""
        first = next(self._raw(2, None), _NOTHING)
        if first is _NOTHING:
            raise self._empty()
        if sources.restarts(self._source):
            return first
        again = next(self._raw(2, None), _NOTHING)
        # one that shuffles and one that goes on both give out something else: after all of it only the former does
        if self._count is None or sources.goes_on(self._source) or _printed(first) != _printed(again):
            count = sum(_images(batch) for batch in self._raw(2, None))
            again = next(self._raw(2, None), _NOTHING)
            self._count = count if self._count is None else self._count
        if again is _NOTHING:
            raise sources.once(self._source, self._part)
        return first

    def _empty(self) -> OperationError:
        return OperationError(
            f"loader {self._part!r}", "it gave no batch",
            "pass one with at least a batch in it, that can be gone through again",
        )  # fmt: skip

    def _raw(self, batch_size: int, order: list[int] | None, *, drop_last: bool = False) -> Iterator[Any]:
        """Batches as the source gives them."""
        source = self._source
        try:
            if isinstance(source, Dataset):
                count: int = len(source)  # type: ignore[arg-type]
                indices = list(range(count)) if order is None else order
                for at in range(0, count - (batch_size - 1 if drop_last else 0), batch_size):
                    yield self._collate([source[i] for i in indices[at : at + batch_size]])
                return
            yield from source() if callable(source) and not isinstance(source, Iterable) else source
        except (InputError, InputTypeError, OperationError, GeneratorExit):
            raise
        except Exception as error:
            raise OperationError(
                f"loader {self._part!r}",
                f"it fails ({type(error).__name__}: {error})",
                "mend it: it must run by itself",
            ) from error


_NOTHING = object()
"""In place of a batch."""


def _printed(batch: Any) -> str:
    """A digest of the tensors in a batch."""
    leaves = [leaf for leaf in tree_leaves(as_tensors(batch)) if isinstance(leaf, Tensor)]
    return tensor_digest({str(number): leaf for number, leaf in enumerate(leaves)})


def _labelled(parts: Mapping[str, LoaderSplit]) -> bool:
    """Whether batches have targets, where no task tells; raise unless that is clear and the same in all parts."""
    found = {part: split.labelled for part, split in parts.items()}
    for part, known in found.items():
        if known is None:
            names = ", ".join(map(repr, parts[part]._first))
            raise InputError(
                f"{part}= batches with {names}", "it is not clear which of them the network is to tell",
                "name the task, such as task='regression', or 'imitation' where all are inputs; or call it 'target'",
            )  # fmt: skip
    if len(set(found.values())) > 1:
        bare = next(part for part, known in found.items() if not known)
        raise InputError(
            f"{bare}= batches without targets", f"those of {next(part for part, known in found.items() if known)} have some",
            "give all parts targets, or pass task='imitation', which needs none",
        )  # fmt: skip
    return bool(found["val"])


def _collated(examples: list[Any]) -> Any:
    """A batch of examples: stacked, where they fit; lists of what does not."""
    try:
        return default_collate(examples)
    except (RuntimeError, TypeError):
        first = examples[0]
        if isinstance(first, tuple | list):
            return tuple(_collated(list(column)) for column in zip(*examples, strict=True))
        return list(examples)


def _seen(batch: Any) -> list[Tensor]:
    """The tensors in what a network looks at, which is not known here: all that is not called as targets are."""
    if isinstance(batch, Mapping):
        batch = {name: value for name, value in batch.items() if str(name).lower() not in TARGETS}
    elif isinstance(batch, tuple | list) and batch:
        batch = batch[0]
    return [leaf for leaf in tree_leaves(as_tensors(batch)) if isinstance(leaf, Tensor)]


def _images(batch: Any) -> int:
    first = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if isinstance(first, tuple | list) and images_apart(first, batch[1:]):
        return len(first)
    return size(tuple(_seen(batch)))


def _at_most(batch: Any, count: int) -> Any:
    n, batch = _images(batch), tuple(batch) if isinstance(batch, list) else batch
    if isinstance(batch, tuple) and isinstance(batch[0], tuple | list) and images_apart(batch[0], batch[1:]):
        batch = tuple(one_by_one(batch))
    return batch if n <= count else rows(batch, 0, count, of=n)
