"""A split of a data set: some of the images of a store, in batches that (seed, epoch) determines."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..errors import InputError, InputTypeError
from . import chance
from .targets import choose, follow, given_out, ignore_index
from .transform import Transform

Batch = tuple[Tensor, Any]
"""Images float32 [B, C, H, W], normalised, and targets: classes int64 [B], numbers float32 [B, D], masks int64 [B, H, W],
or a list of dicts of boxes."""


class Store(Protocol):
    """Where the pixels of a data set are."""

    @property
    def pixel_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image it gives out."""

    def read(self, batches: Sequence[Tensor], words: Sequence[NDArray[np.uint64]] | None) -> Iterator[Tensor]:
        """Give out the images of each batch of positions.

        Args:
            batches: positions in the store, int64 [B] each.
            words: one random word per image, for a store that augments while it decodes.

        Returns:
            uint8 [B, H, W, C] for each batch.
        """


class MemoryStore:
    """Images held in memory, or in a memory-mapped file.

    Args:
        images: uint8 [N, H, W, C].
    """

    def __init__(self, images: Tensor) -> None:
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise InputTypeError(
                f"images of {images.dtype}, shape {tuple(images.shape)}",
                "a memory store holds uint8 images [N, H, W, C]",
                "convert them",
            )
        self.images = images.contiguous()

    @property
    def pixel_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        _, H, W, C = self.images.shape
        return H, W, C

    def read(self, batches: Sequence[Tensor], words: Sequence[NDArray[np.uint64]] | None) -> Iterator[Tensor]:
        """Gather each batch; see `Store.read`."""
        del words  # crops and flips are made by the transform, on the device
        for positions in batches:
            yield self.images.index_select(0, positions)


class Split:
    """A part of a data set.

    Args:
        store: where the pixels are.
        labels: int64 [N], the class of each image of this split; or its numbers, float32 [N, D]; or `Masks`; or `Boxes`.
        classes: names of all classes of the data set.
        transform: what makes pixels a network's input.
        positions: int64 [N], where in the store each image is; None when it is the whole store, in order.
        task: what networks are to do with it; see `Data.task`.

    Attributes:
        labels: the targets of all images.
        classes: names of the classes.
        image_shape: (C, H, W) of the images it gives out.
        transform: how pixels become a network's input; holds mean and standard deviation.
    """

    def __init__(
        self,
        store: Store,
        labels: Any,
        classes: tuple[str, ...],
        transform: Transform,
        *,
        positions: Tensor | None = None,
        task: Any = None,
    ) -> None:
        self._store = store
        self._positions = torch.arange(len(labels)) if positions is None else positions
        self.labels, self.classes, self.transform, self.task = labels, classes, transform, task
        H, W, C = store.pixel_shape
        self.image_shape = (C, *(transform.size or (H, W)))

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def __repr__(self) -> str:
        return f"Split({len(self)} images {self.image_shape}, {len(self.classes)} classes)"

    def num_batches(self, batch_size: int = 256, *, drop_last: bool = False) -> int:
        """How many batches `batches` gives out."""
        chance.check_whole("batch_size", batch_size, least=1)
        return len(self) // batch_size if drop_last else -(-len(self) // batch_size)

    def batches(
        self,
        batch_size: int = 256,
        *,
        shuffle: bool = False,
        augment: bool = False,
        seed: int = 0,
        epoch: int = 0,
        device: str | torch.device = "cpu",
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """Give out the split once, in batches.

        Args:
            batch_size: images per batch; the last batch may have fewer.
            shuffle: in an order that (seed, epoch) determines, instead of the split's own.
            augment: crop and flip at random. What becomes of an image depends on seed, epoch and image, not
                on batch size or order, so a resumed training sees what an uninterrupted one would.
            seed: any whole number from 0.
            epoch: any whole number from 0.
            device: where the batches go; pixels travel as uint8 and are augmented and normalised there.
            drop_last: leave out a last batch that has fewer images.

        Returns:
            Iterator of images float32 [B, C, H, W], normalised, and what is to be said of them; see `Batch`.

        Raises:
            InputError: a batch size, seed or epoch that is none.
            CorruptFile: an image of a streamed folder cannot be decoded.
        """
        chance.check_whole("seed", seed, least=0)
        chance.check_whole("epoch", epoch, least=0)
        chosen = self.order(batch_size, shuffle=shuffle, seed=seed, epoch=epoch, drop_last=drop_last)
        words = None
        if augment:
            drawn = chance.words(len(self), chance.AUGMENT, seed, epoch)
            words = [drawn[images.numpy()] for images in chosen]
        return self._give_out(chosen, words, torch.device(device))

    def order(
        self,
        batch_size: int = 256,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        drop_last: bool = False,
    ) -> Sequence[Tensor]:
        """Which images are in each batch that `batches` gives out when it is asked for the same."""
        kept = self.num_batches(batch_size, drop_last=drop_last)
        order = chance.order(len(self), chance.SHUFFLE, seed, epoch) if shuffle else torch.arange(len(self))
        batches: Sequence[Tensor] = order.split(batch_size)[:kept]
        return batches

    @property
    def positions(self) -> Tensor:
        """Where in the store each image is, int64 [N]."""
        return self._positions

    @property
    def store(self) -> Store:
        """Where the pixels are."""
        return self._store

    def _give_out(
        self, chosen: Sequence[Tensor], words: list[NDArray[np.uint64]] | None, device: torch.device
    ) -> Iterator[Batch]:
        stored = self._store.read([self._positions[images] for images in chosen], words)
        truths = given_out(self.labels, chosen)
        H, W, _ = self._store.pixel_shape
        ignored = ignore_index(self.task)
        for number, (pixels, truth) in enumerate(zip(stored, truths, strict=True)):
            drawn = None if words is None else words[number]
            inputs = self.transform(pixels.to(device, non_blocking=True), drawn)
            if isinstance(truth, Tensor):  # boxes are few: they are moved when all is done
                truth = truth.to(device, non_blocking=True)  # noqa: PLW2901
            targets = follow(truth, self.transform, drawn, (H, W), ignored=ignored)
            yield inputs, tree_map_only(Tensor, lambda one: one.to(device, non_blocking=True), targets)

    def take(self, images: Tensor) -> Split:
        """The split of the images at these positions of this one, int64 [n]."""
        return Split(
            self._store, self.labels[images], self.classes, self.transform,
            positions=self._positions[images], task=self.task,
        )  # fmt: skip

    def for_task(self, task: Any) -> Split:
        """The same images for another task."""
        split = copy.copy(self)
        split.task = task
        return split

    def subset(self, n: int, seed: int = 0) -> Split:
        """A choice of `n` images, by class where each has one, in this split's order.

        Raises:
            InputError: `n` is below 1 or above the number of images.
        """
        chance.check_whole("n", n, least=1)
        chance.check_whole("seed", seed, least=0)
        if n > len(self):
            raise InputError(f"subset of {n} images", f"the split has only {len(self)}", "ask for fewer")
        return self.take(choose(self.labels, n, chance.SUBSET, seed))

    def at_most(self, n: int, seed: int = 0) -> Split:
        """`subset`, or all images where there are no more.

        Raises:
            InputError: `n` is below 1.
        """
        return self.subset(min(n, len(self)), seed)


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set, cut into what trains, what steers and what is read once at the end."""

    name: str
    """What it was loaded by."""
    train: Split
    val: Split
    """Cut from train by seed; all choices are made on it."""
    test: Split
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    mean: tuple[float, ...]
    """Per channel, of the [0, 1] images: what the batches are normalised by."""
    std: tuple[float, ...]
    """Per channel, of the [0, 1] images."""
    task: Any = None
    """What networks are to do with it: a name, a mapping or a `pintsize.Task`; None for a classification."""

    def __post_init__(self) -> None:
        for part in ("train", "val", "test"):
            split = getattr(self, part)
            kind = type(split)  # what a split gives out is not touched here
            batches = callable(split) or hasattr(kind, "__iter__") or hasattr(kind, "__getitem__")
            if batches and not hasattr(kind, "batches"):
                raise InputTypeError(
                    f"{part}= {kind.__name__}", "it is no split",
                    "make splits of batches of your own: pintsize.data.from_loaders(train, val)",
                )  # fmt: skip

    def for_task(self, task: Any) -> Data:
        """The same images for another task; None leaves it as it is."""
        if task is None:
            return self
        parts = {part: getattr(self, part).for_task(task) for part in ("train", "val", "test")}
        return dataclasses.replace(self, **parts, task=task)
