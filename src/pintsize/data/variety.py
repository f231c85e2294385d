"""Images chosen for variety by what a network says of them, where no labels tell which are alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from . import chance
from .batches import run, size, split_batch
from .split import Split

_SEEN = 4096
"""Images that the network looks at, at most; of more, a choice by chance."""
_NUMBERS = 64
"""Of each output that images are told apart by."""
_SIDE = 4
_FEW = 8
"""Images below which a choice by chance is as good."""


def varied(model: nn.Module, split: Split, count: int, seed: int = 0) -> Split:
    """A choice of `count` images on which the network's outputs differ, in the split's order.

    One after the other is drawn with a chance that grows with the square of its distance from the nearest that is chosen
    already (k-means++, Arthur & Vassilvitskii, SODA 2007): rare images come in, doubles do not, and no outlier is sure to.
    Distances are between outputs, each brought to the same scale; of maps the averages of 4 by 4 parts, and of long outputs
    a random projection, count.

    Args:
        model: the dense network; runs in eval mode where it is.
        split: what to choose from; of more than 4,096 images so many are looked at.
        count: how many; all of them, where there are no more.
        seed: decides the choice.
    """
    chance.check_whole("count", count, least=1)
    chance.check_whole("seed", seed, least=0)
    if count >= len(split):
        return split
    if count < _FEW:
        return split.at_most(count, seed)
    seen = split.at_most(max(_SEEN, count), seed)
    return seen.take(torch.from_numpy(np.sort(_spread(_described(model, seen), count, seed))))


def _described(model: nn.Module, split: Split) -> NDArray[np.float32]:
    """What the network says of each image, in a few numbers: float32 [N, D]."""
    device = next((one.device for one in model.parameters()), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}
    rows: list[list[Tensor]] = []
    try:
        model.eval()
        with torch.no_grad():
            for batch in split.batches(64, device=device):
                inputs, _ = split_batch(batch, model)
                found: Any = run(model, inputs)
                leaves = [one for one in tree_leaves(found) if _tells(one, size(inputs))]
                rows.append([_short(one, number) for number, one in enumerate(leaves)])
    finally:
        for module, mode in modes.items():
            module.training = mode
    outputs = [torch.cat(column) for column in zip(*rows, strict=True)]
    scaled = [
        (one - one.mean(0)) / (one - one.mean(0)).square().mean().sqrt().clamp_min(1e-12) for one in outputs
    ]
    if not scaled:
        return np.zeros((len(split), 1), np.float32)
    values: NDArray[np.float32] = torch.nan_to_num(torch.cat(scaled, 1)).numpy()
    return values


def _tells(output: Any, count: int) -> bool:
    return isinstance(output, Tensor) and output.dim() > 0 and len(output) == count


def _short(output: Tensor, number: int) -> Tensor:
    """An output in at most 64 numbers for each image."""
    values = output.float().cpu()
    if values.dim() == 4:
        values = torch.nn.functional.adaptive_avg_pool2d(values, _SIDE)
    flat = values.reshape(len(values), -1)
    if flat.shape[1] <= _NUMBERS:
        return flat
    generator = torch.Generator().manual_seed(number)  # the same for every batch
    signs = torch.randint(0, 2, (flat.shape[1], _NUMBERS), generator=generator).float() * 2 - 1
    projected: Tensor = flat @ signs / flat.shape[1] ** 0.5
    return projected


def _spread(points: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int64]:
    """Positions of `count` of the points [N, D]."""
    drawn = chance.words(count, chance.VARIETY, seed).astype(np.float64) / 2.0**64
    chosen = [int(drawn[0] * len(points))]
    nearest = np.full(len(points), np.inf)
    for word in drawn[1:].tolist():
        nearest = np.minimum(nearest, np.square(points - points[chosen[-1]], dtype=np.float64).sum(1))
        nearest[chosen] = 0.0
        if not nearest.any():  # all that are left are doubles of chosen ones
            break
        summed = nearest.cumsum()
        chosen.append(int(np.searchsorted(summed, word * summed[-1], side="right")))
    left = np.setdiff1d(np.arange(len(points)), chosen)
    return np.array([*chosen, *left[: count - len(chosen)]], np.int64)
