"""The table of functions, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])

FUNCTIONS: dict[str, Callable[..., Any]] = {}
"""Name → what is called."""
CREATES: set[str] = set()
"""Those that make a tensor of nothing: they are told `device`."""


def function(target: F) -> F:
    """Decorator: make it known under its own name, without the underscore that keeps it from hiding a builtin."""
    FUNCTIONS[target.__name__.rstrip("_")] = target
    return target


def creates(target: F) -> F:
    """As `function`, for what makes a tensor of nothing."""
    CREATES.add(target.__name__.rstrip("_"))
    return function(target)


def whole(sizes: Any) -> list[Any]:
    """Sizes as a flat list of integers, open ones among them.

    Args:
        sizes: an array of `functions.sizes`, a tensor, a list or one number.
    """
    if isinstance(sizes, Tensor):
        return [int(one) for one in sizes.reshape(-1).tolist()]
    return [
        one if isinstance(one, torch.SymInt) else int(one) for one in np.asarray(sizes, object).reshape(-1)
    ]


def number(value: Any) -> Any:
    """An array with one entry as that entry; all else as it is."""
    return value.reshape(-1)[0] if isinstance(value, np.ndarray) and value.size == 1 else value
