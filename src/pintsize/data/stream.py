"""Images too many for memory: decoded anew each time, by the workers of a torch DataLoader."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import InputError
from . import pictures

_CROP = 224 / 256  # the usual evaluation protocol on ImageNet: shorter side 256, centre 224
_WORKERS = 8

Decode = Callable[[str, int | None], pictures.Rgb]


class PictureStore:
    """Picture files, decoded as they are asked for.

    Args:
        files: their paths.
        shape: height, width and channels to give out.
        decode: a path and, where images are augmented, a random word → uint8 [H, W, C].
        workers: processes that decode; 0 for none but this one.
    """

    def __init__(
        self, files: Sequence[str], shape: tuple[int, int, int], decode: Decode, *, workers: int | None = None
    ) -> None:
        self.files, self._shape, self._decode = tuple(files), shape, decode
        self.workers = min(os.cpu_count() or 1, _WORKERS) if workers is None else workers

    @property
    def pixel_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self._shape

    def read(self, batches: Sequence[Tensor], words: Sequence[NDArray[np.uint64]] | None) -> Iterator[Tensor]:
        """Decode each batch; see `Store.read`."""
        loader = DataLoader(
            _Batches(self.files, self._decode, batches, words),
            batch_size=None,
            shuffle=False,
            num_workers=min(self.workers, len(batches)),
            generator=torch.Generator(),  # else each pass would draw from the global one
        )
        for pixels in loader:
            if isinstance(pixels, InputError):
                raise pixels
            yield pixels


class FolderStore(PictureStore):
    """Picture files of which augmentation makes random-resized crops; else the centre, after scaling to 256/224 of it.

    Args:
        files: their paths.
        size: height and width to give out.
        crop: share of the scaled picture's shorter side that the centre has.
        interpolation: of scaling.
        workers: processes that decode; 0 for none but this one.
    """

    def __init__(
        self, files: Sequence[str], size: pictures.Size, *, crop: float = _CROP, interpolation: str = "bilinear",
        workers: int | None = None,
    ) -> None:  # fmt: skip
        decode = functools.partial(_cropped, size, crop, interpolation)
        super().__init__(files, (*size, 3), decode, workers=workers)


def _cropped(
    size: pictures.Size, crop: float, interpolation: str, file: str, word: int | None
) -> pictures.Rgb:
    image = pictures.rgb(file)
    if word is None:
        return pictures.fit(image, size, margin=1 / crop, interpolation=interpolation)
    return pictures.random_resized_crop(image, size, word)


class _Batches(Dataset[Tensor | InputError]):
    """Whole batches as the items of a data set, so that a worker decodes one batch at a time."""

    def __init__(
        self,
        files: Sequence[str],
        decode: Decode,
        batches: Sequence[Tensor],
        words: Sequence[NDArray[np.uint64]] | None,
    ) -> None:
        self.files, self.decode, self.batches, self.words = files, decode, batches, words

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
            word = None if self.words is None else int(self.words[number][place])
            yield self.decode(self.files[position], word)
