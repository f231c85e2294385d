"""Just the images of anything that gives out batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from ..errors import InputTypeError
from . import chance
from .split import Split


def images_of(source: Iterable[Any] | Tensor, limit: int | None = None) -> Iterator[Tensor]:
    """The image batches of a split, of any iterable of batches, or of one batch.

    Args:
        source: a `Split`, which is shuffled (of an image folder the first images are all of one class), `limit`
            images of it chosen by class; an iterable of image tensors or of (images, labels); or one image tensor
            [B, C, H, W].
        limit: how many images to give out at most; None for all.

    Returns:
        Iterator of floating-point image tensors [B, …].

    Raises:
        InputTypeError: the source is none of these.
        InputError: `limit` is not a whole number of at least 1.
    """
    if limit is not None:
        chance.check_whole("limit", limit, least=1)
    if isinstance(source, Tensor):
        source = [source]
    if isinstance(source, Split):
        source = (source if limit is None else source.at_most(limit)).batches(shuffle=True)
    if not isinstance(source, Iterable):
        raise InputTypeError(
            f"data of type {type(source).__name__}",
            "it gives out no batches",
            "pass a split such as data.train, or an iterable of image batches",
        )
    return _images(source, limit)


def _images(source: Iterable[Any], limit: int | None) -> Iterator[Tensor]:
    left = limit
    for batch in source:
        images = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        if not isinstance(images, Tensor) or not images.is_floating_point() or images.dim() < 2:
            got = (
                f"{images.dtype} tensor of shape {tuple(images.shape)}"
                if isinstance(images, Tensor)
                else type(images).__name__
            )
            raise InputTypeError(
                f"a batch that is a {got}",
                "images are floating-point tensors [B, C, H, W]",
                "give out image tensors, or pairs (images, labels)",
            )
        if left is None:
            yield images
            continue
        yield images[:left]
        left -= len(images)
        if left <= 0:
            return
