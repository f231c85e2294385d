"""Chance that a seed determines: orders, per-image words, stratified cuts.

Everything is drawn from the raw 64-bit words of PCG64, which NumPy guarantees never to change, so that
a split or a training order is the same on every machine and with every later NumPy.
"""

from __future__ import annotations

import numbers

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError

# What a stream of words is for: the same seed gives independent streams.
SHUFFLE, AUGMENT, VALIDATION, TEST, SUBSET, SCENES, MIXING, VARIETY = range(8)


def words(n: int, purpose: int, *key: int) -> NDArray[np.uint64]:
    """The `n` random 64-bit words that (`purpose`, `key`) determines."""
    stream = np.random.PCG64(np.random.SeedSequence((purpose, *key)))
    drawn: NDArray[np.uint64] = stream.random_raw(n)
    return drawn


def order(n: int, purpose: int, *key: int) -> Tensor:
    """The permutation of 0 … n-1 (int64) that (`purpose`, `key`) determines."""
    return torch.from_numpy(np.argsort(words(n, purpose, *key), kind="stable"))


def stratified(labels: Tensor, n: int, purpose: int, *key: int) -> Tensor:
    """Choose `n` of the images so that every class has its share.

    Args:
        labels: int64 [N], the class of each image.
        n: how many to choose, at most N.
        purpose: what the cut is for.
        key: what determines the choice.

    Returns:
        Positions of the chosen images, ascending, int64 [n]. Seats are given to classes by largest remainder.
    """
    of_image = labels.numpy()
    counts = np.bincount(of_image)
    seats, remainders = np.divmod(counts * n, len(of_image))
    seats[np.argsort(-remainders, kind="stable")[: n - seats.sum()]] += 1
    shuffled = order(len(of_image), purpose, *key).numpy()
    by_class = shuffled[np.argsort(of_image[shuffled], kind="stable")]
    first_of_class = counts.cumsum() - counts
    rank_in_class = np.arange(len(of_image)) - first_of_class[of_image[by_class]]
    return torch.from_numpy(np.sort(by_class[rank_in_class < seats[of_image[by_class]]]))


def check_whole(option: str, value: object, *, least: int) -> None:
    """Raise `InputError` unless `value` is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < least:
        raise InputError(f"{option}={value!r}", f"it is not a whole number of at least {least}", "pass one")
