"""uint8 images in batches of loaders, as numbers from 0 to 1: those that the network looks at, and no others.

Which tensor is an input only the network tells, where a batch has several; until it is asked they are marked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from .names import IMAGES, MASKS

_MARKED = WeakTensorKeyDictionary()
"""Images in bytes of which it is not known whether they are inputs."""


def as_floats(batch: Any, *, of_images: bool = False) -> Any:
    """A batch of a loader with its uint8 images in [0, 1], where it is plain that they are inputs; others are marked.

    Args:
        batch: of tensors.
        of_images: whether its targets are images as well, and not masks.
    """
    if of_images:
        return tree_map_only(Tensor, _scaled, batch)
    if isinstance(batch, Tensor):
        return _scaled(batch)
    if isinstance(batch, Mapping):
        return {name: _named(str(name), value) for name, value in batch.items()}
    if isinstance(batch, tuple | list) and batch:
        first = batch[0]
        inputs = (
            {name: tree_map_only(Tensor, _scaled, value) for name, value in first.items()}
            if isinstance(first, Mapping)
            else tree_map_only(Tensor, _scaled, first)
        )
        made = [inputs, *(tree_map_only(Tensor, _marked, other) for other in batch[1:])]
        return made if isinstance(batch, list) else tuple(made)
    return batch


def scaled(batch: Any) -> tuple[Any, dict[int, Tensor]]:
    """A batch with what `as_floats` marked in [0, 1], and what each of these tensors was, by its `id`."""
    before: dict[int, Tensor] = {}

    def one(images: Tensor) -> Tensor:
        if images not in _MARKED:
            return images
        made = _scaled(images)
        before[id(made)] = images
        return made

    return tree_map_only(Tensor, one, batch), before


def _named(name: str, value: Any) -> Any:
    if name.lower() in MASKS:  # their numbers are no brightness, even where a network takes them
        return value
    return tree_map_only(Tensor, _scaled if name.lower() in IMAGES else _marked, value)


def _scaled(images: Tensor) -> Tensor:
    return images.float() / 255 if _in_bytes(images) else images


def _marked(images: Tensor) -> Tensor:
    if _in_bytes(images):
        _MARKED[images] = None
    return images


def _in_bytes(images: Tensor) -> bool:
    return images.dtype == torch.uint8 and images.dim() > 2
