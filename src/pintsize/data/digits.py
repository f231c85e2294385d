"""The handwritten digits that scikit-learn carries, 8×8 with values 0 to 16.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
1998 (its test part).
"""

from __future__ import annotations

import numpy as np
import torch

from . import chance
from .places import Decoded, Labelled

PEAK = 16
"""The stored value that stands for 1.0."""
_TEST_IMAGES = 360


def read() -> Decoded:
    """All 1,797 images: 360 of them, always the same, are the test part."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(-1)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    test = chance.stratified(labels, _TEST_IMAGES, chance.TEST, 0)
    is_train = torch.ones(len(labels), dtype=torch.bool).index_fill(0, test, False)
    parts = {
        "train": Labelled(images[is_train], labels[is_train]),
        "test": Labelled(images[test], labels[test]),
    }
    return Decoded(parts, tuple(str(name) for name in digits.target_names))
