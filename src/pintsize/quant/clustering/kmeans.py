"""Optimal 1-D k-means."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CELLS = 1 << 25  # of the dynamic program's table: 256 MiB, some seconds
_ROUNDS = 100


def centroids(values: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """The `k` centroids (fewer if there are fewer distinct values), sorted, that minimise the squared error.

    Up to 33,554,432 / k values this is the exact optimum (dynamic programming, Wu 1991; Grønlund et al.,
    1701.07204; by `kmeans1d`). Of more values groups of sorted neighbours are first replaced by their means; Lloyd's
    iterations on all values follow.

    Args:
        values: [N], finite, at least one.
        k: at least 1.
    """
    import kmeans1d

    ordered = np.sort(values)
    k = min(k, 1 + int(np.count_nonzero(np.diff(ordered))))
    size = _CELLS // k
    if len(ordered) <= size:
        return np.unique(np.asarray(kmeans1d.cluster(ordered, k).centroids))
    # groups of one size: the dynamic program weighs all points alike
    summary = [part.mean() for part in np.array_split(ordered, size)]
    found = np.unique(np.asarray(kmeans1d.cluster(summary, k).centroids))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(_ROUNDS):
        ends = np.concatenate([[0], np.searchsorted(ordered, (found[1:] + found[:-1]) / 2), [len(ordered)]])
        counts = np.diff(ends)
        better = np.where(counts > 0, np.diff(sums[ends]) / np.maximum(counts, 1), found)
        if np.array_equal(better, found):
            break
        found = better
    return found


def nearest(values: NDArray[np.float64], codebook: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the nearest entry of the sorted `codebook` for each value."""
    return np.searchsorted((codebook[1:] + codebook[:-1]) / 2, values)
