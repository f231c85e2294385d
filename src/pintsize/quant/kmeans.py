"""Optimal 1-D k-means."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_EXACT = 1 << 17
_ROUNDS = 100


def centroids(values: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """The `k` centroids (fewer if there are fewer distinct values), sorted, that minimise the squared error.

    Up to 131,072 values this is the exact optimum (dynamic programming, Wu 1991, by `kmeans1d`). Of more
    values the sorted neighbours are first averaged to so many; Lloyd's iterations on all of them follow.

    Args:
        values: [N], finite, at least one.
        k: at least 1.
    """
    import kmeans1d

    ordered = np.sort(values)
    k = min(k, 1 + int(np.count_nonzero(np.diff(ordered))))
    if len(ordered) <= _EXACT:
        return np.unique(np.asarray(kmeans1d.cluster(ordered, k).centroids))
    summary = [part.mean() for part in np.array_split(ordered, _EXACT)]
    found = np.unique(np.asarray(kmeans1d.cluster(summary, k).centroids))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(_ROUNDS):
        ends = np.searchsorted(ordered, (found[1:] + found[:-1]) / 2)
        starts, stops = np.concatenate([[0], ends]), np.concatenate([ends, [len(ordered)]])
        counts = stops - starts
        better = np.where(counts > 0, (sums[stops] - sums[starts]) / np.maximum(counts, 1), found)
        if np.array_equal(better, found):
            break
        found = better
    return found


def nearest(values: NDArray[np.float64], codebook: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the nearest entry of the sorted `codebook` for each value."""
    return np.searchsorted((codebook[1:] + codebook[:-1]) / 2, values)
