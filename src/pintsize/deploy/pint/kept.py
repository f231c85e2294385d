"""Masks as what the zeros of their weights do not tell: a mask keeps what is not zero, but for a few places.

Such places are weights that are kept and were rounded to zero; a training that goes on may move them again.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

_SUFFIX = "weight_mask"
_OWNERS = ("weight_codes", "weight")
"""What stands for the weight in a state dict: the codes of a clustered layer, else itself."""


def owners(name: str) -> list[str]:
    """Names of the tensors whose zeros the tensor `name` may tell, if it is a mask."""
    prefix, found, _ = name.rpartition(_SUFFIX)
    return [prefix + owner for owner in _OWNERS] if found and name.endswith(_SUFFIX) else []


def differences(mask: Tensor, told: Tensor) -> Tensor | None:
    """Where `mask` is not `told`, as the number of places passed over before each, int32.

    Args:
        mask: packed, one bit for each place, the highest first; uint8 [⌈n / 8⌉].
        told: bool, n places.

    Returns:
        None if this does not give the mask back, or takes no fewer bytes than the mask itself.
    """
    count = told.numel()
    if mask.dtype != torch.uint8 or mask.shape != (-(-count // 8),) or not 0 < count < 2**31:
        return None
    bits = np.unpackbits(mask.numpy(), count=count).astype(bool)
    places = np.flatnonzero(bits != told.flatten().numpy())
    gaps = torch.from_numpy((np.diff(places, prepend=-1) - 1).astype(np.int32))
    if not torch.equal(packed(told, gaps), mask):  # bits beyond the last place
        return None
    sizes = [len(zlib.compress(part.numpy().tobytes(), 9)) for part in (gaps, mask)]
    return gaps if sizes[0] < sizes[1] else None


def packed(told: Tensor, gaps: Tensor) -> Tensor:
    """The mask of which `differences` found `gaps`.

    Raises:
        ValueError: a gap is below 0, or they go beyond the last place.
    """
    bits = told.flatten().numpy().copy()
    if len(gaps):
        places = np.cumsum(gaps.numpy().astype(np.int64) + 1) - 1
        if int(gaps.min()) < 0 or places[-1] >= len(bits):
            raise ValueError("a mask differs from its weights where there are none")
        bits[places] ^= True
    return torch.from_numpy(np.packbits(bits))
