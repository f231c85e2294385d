"""Digests: what two starts, or two runs, have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .record import to_json as record_json


def digest(value: Any) -> str:
    """A hexadecimal digest of any JSON-able value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def in_order(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section of a recipe for `digest`, which sorts keys: where patterns have values, their order counts."""
    return {
        key: list(map(list, value.items())) if isinstance(value, Mapping) else value
        for key, value in section.items()
    }


def tensor_digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, shapes, types and values."""
    total = hashlib.sha256()
    for name, tensor in tensors.items():
        total.update(f"{name}\0{tuple(tensor.shape)}\0{tensor.dtype}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return total.hexdigest()


def model_digest(model: nn.Module) -> str:
    """A digest of what a network is: its printed structure, its record, its weights."""
    return digest([repr(model), record_json(model), tensor_digest(model.state_dict())])
