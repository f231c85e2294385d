"""A split of images of which nothing is said: its batches are inputs alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..storage.digests import digest
from . import chance
from .split import Split, Store
from .transform import Transform


class Unlabelled:
    """Stands where the labels of a split would be; an index tensor chooses some, as of a tensor of labels.

    Args:
        source: digest of the files that the images come from, and of how they are decoded.
        positions: int64 [N], which of these images.
    """

    def __init__(self, source: str, positions: Tensor) -> None:
        self.source, self.positions = source, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, images: Tensor) -> Unlabelled:
        return Unlabelled(self.source, self.positions[images])

    def digest(self) -> str:
        """Of the images themselves: there is nothing else."""
        return digest([self.source, self.positions.tolist()])


class UnlabelledSplit(Split):
    """Images float32 [B, C, H, W], normalised.

    Args:
        store: where the pixels are.
        images: which ones.
        transform: what makes pixels a network's input.
        channels: rgb, bgr or grey.
        task: what networks are to do with them.
    """

    def __init__(
        self, store: Store, images: Unlabelled, transform: Transform, *, channels: str = "rgb",
        task: Any = "imitation",
    ) -> None:  # fmt: skip
        super().__init__(store, images, (), transform, positions=images.positions, task=task)
        self.channels = channels

    def __repr__(self) -> str:
        return f"UnlabelledSplit({len(self)} images {self.image_shape})"

    def take(self, images: Tensor) -> UnlabelledSplit:
        """The split of the images at these positions of this one, int64 [n]."""
        return UnlabelledSplit(
            self._store, self.labels[images], self.transform, channels=self.channels, task=self.task
        )

    def subset(self, n: int, seed: int = 0) -> UnlabelledSplit:
        """A choice of `n` images by chance, in this split's order."""
        taken = super().subset(n, seed)
        assert isinstance(taken, UnlabelledSplit)
        return taken

    def pictures(self, count: int) -> Tensor:
        """A few images as the network sees them, before normalisation: float32 [n, C, H, W] in [0, 1], colours as RGB."""
        chosen = chance.order(len(self), chance.SUBSET, 0)[: min(count, len(self))].sort().values
        images: Any = next(iter(self.take(chosen).batches(len(chosen))))
        mean, std = torch.tensor(self.transform.mean), torch.tensor(self.transform.std)
        seen: Tensor = (images * std.view(-1, 1, 1) + mean.view(-1, 1, 1)).clamp(0, 1)
        return seen.flip(1) if self.channels == "bgr" else seen

    def _give_out(
        self, chosen: Sequence[Tensor], words: list[NDArray[np.uint64]] | None, device: torch.device
    ) -> Iterator[Any]:
        stored = self._store.read([self._positions[images] for images in chosen], words)
        for number, pixels in enumerate(stored):
            yield self.transform(
                pixels.to(device, non_blocking=True), None if words is None else words[number]
            )
