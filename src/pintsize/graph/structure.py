"""How the outputs of a network are put together, which a file's list of tensors does not show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves


def structure_of(outputs: Any) -> Any:
    """How dicts and nested outputs are put together, JSON-able, numbers standing for tensors; None of plain ones."""
    flat = outputs if isinstance(outputs, tuple | list) else (outputs,)
    if all(isinstance(leaf, Tensor) for leaf in flat):
        return None
    count = iter(range(len(tree_leaves(outputs))))

    def told(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): told(one) for key, one in value.items()}
        if isinstance(value, tuple | list):
            return [told(one) for one in value]
        return next(count) if isinstance(value, Tensor) else None

    return told(outputs)


def structured(outputs: Any, structure: Any) -> Any:
    """A file's outputs put together as its model's are."""
    if structure is None:
        return outputs
    flat = outputs if isinstance(outputs, tuple | list) else (outputs,)

    def put(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: put(one) for key, one in value.items()}
        if isinstance(value, list):
            return tuple(put(one) for one in value)
        return None if value is None else flat[value]

    return put(structure)
