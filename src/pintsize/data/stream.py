"""Images too many for memory: decoded anew each time, by the workers of a torch DataLoader."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import InputError
from . import pictures

_MARGIN = 256 / 224  # the usual evaluation protocol on ImageNet: shorter side 256, centre 224
_WORKERS = 8


class FolderStore:
    """Picture files, decoded as they are asked for.

    Args:
        files: their paths.
        size: height and width to give out: a random-resized crop where augmented, else the centre after
            scaling the picture to cover 256/224 of it.
        workers: processes that decode; 0 for none but this one.
    """

    def __init__(self, files: Sequence[str], size: pictures.Size, *, workers: int | None = None) -> None:
        self.files, self.size = tuple(files), size
        self.workers = min(os.cpu_count() or 1, _WORKERS) if workers is None else workers

    @property
    def pixel_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return (*self.size, 3)

    def read(self, batches: Sequence[Tensor], words: Sequence[NDArray[np.uint64]] | None) -> Iterator[Tensor]:
        """Decode each batch; see `Store.read`."""
        loader = DataLoader(
            _Batches(self.files, self.size, batches, words),
            batch_size=None,
            shuffle=False,
            num_workers=min(self.workers, len(batches)),
            generator=torch.Generator(),  # else each pass would draw from the global one
        )
        for pixels in loader:
            if isinstance(pixels, InputError):
                raise pixels
            yield pixels


class _Batches(Dataset[Tensor | InputError]):
    """Whole batches as the items of a data set, so that a worker decodes one batch at a time."""

    def __init__(
        self,
        files: Sequence[str],
        size: pictures.Size,
        batches: Sequence[Tensor],
        words: Sequence[NDArray[np.uint64]] | None,
    ) -> None:
        self.files, self.size, self.batches, self.words = files, size, batches, words

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Tensor | InputError:
        try:
            images = list(self._decoded(number))
        except InputError as error:
            return error  # DataLoader would turn a raised one into a RuntimeError with a worker's traceback
        return torch.from_numpy(np.stack(images))

    def _decoded(self, number: int) -> Iterator[pictures.Rgb]:
        for place, position in enumerate(self.batches[number].tolist()):
            image = pictures.rgb(self.files[position])
            if self.words is None:
                yield pictures.fit(image, self.size, margin=_MARGIN)
            else:
                yield pictures.random_resized_crop(image, self.size, int(self.words[number][place]))
