"""The state of every random number generator a training may draw from."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import torch


def state(device: torch.device) -> dict[str, Any]:
    """The generators of torch (CPU and `device`), NumPy and Python, as tensors and plain types."""
    import numpy as np

    name, key, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": (
            str(name),
            torch.from_numpy(np.asarray(key, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ),
        "python": random.getstate(),
    }


def restore(saved: dict[str, Any], device: torch.device) -> None:
    """Set the generators to what `state` returned."""
    import numpy as np

    torch.set_rng_state(saved["torch"])
    if device.type == "cuda" and saved["cuda"] is not None:
        torch.cuda.set_rng_state(saved["cuda"], device)
    name, key, position, has_gauss, gauss = saved["numpy"]
    np.random.set_state((name, key.numpy().astype("uint32"), position, has_gauss, gauss))
    random.setstate(saved["python"])


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed every generator; afterwards the caller's are as they were."""
    import numpy as np

    before = state(device)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        restore(before, device)
