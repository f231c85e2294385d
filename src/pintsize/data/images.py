"""Just the images of anything that gives out batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from .batches import Inputs, batches_of


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
