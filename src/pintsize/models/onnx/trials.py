"""Inputs that a file may take: shapes for its open dimensions, and numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .program import Port, Program

_SIDES = (
    (224, 224), (320, 320), (64, 64), (256, 256), (48, 320), (32, 32), (640, 640), (96, 96), (128, 128), (512, 512),
    (28, 28), (299, 299), (16, 16), (8, 8), (1, 1),
)  # fmt: skip
"""Tried in turn where the file leaves height and width open."""


def sizes_tried(inputs: Sequence[Port]) -> Iterator[dict[str, tuple[int, ...]]]:
    """Shapes for all inputs: two images, and sides that networks are made for."""
    for sides in _SIDES:
        known: dict[str, int] = {}
        found = {}
        for port in inputs:
            shape: list[int] = []
            free = 0
            for dim, one in enumerate(port.shape or ()):
                if isinstance(one, int):
                    shape.append(one)
                    continue
                wanted = 2 if dim == 0 else sides[min(free, 1)]
                free += dim > 0
                shape.append(known.setdefault(one, wanted) if one is not None else wanted)
            found[port.name] = tuple(shape)
        yield found
        if all(isinstance(one, int) for port in inputs for one in (port.shape or ())[1:]):
            return


def random_inputs(inputs: Sequence[Port], sizes: Mapping[str, Sequence[int]], seed: int) -> dict[str, Any]:
    """NumPy arrays that fit."""
    chance = np.random.default_rng(seed)
    made = {}
    for port in inputs:
        shape = tuple(sizes[port.name])
        if port.dtype.startswith(("float", "double", "bfloat")):
            made[port.name] = chance.random(shape, np.float32).astype(port.dtype)
        elif port.dtype == "bool":
            made[port.name] = chance.random(shape) > 0.5
        else:
            made[port.name] = chance.integers(0, 200 if port.dtype == "uint8" else 2, shape).astype(
                port.dtype
            )
    return made


def example_of(program: Program, seed: int = 0) -> tuple[Tensor, ...]:
    """Inputs that the file takes, of the size that it was tried with."""
    return tensors(program.inputs, random_inputs(program.inputs, program.told["tried"], seed))


def tensors(inputs: Sequence[Port], arrays: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """NumPy arrays as the network takes them."""
    return tuple(torch.from_numpy(np.ascontiguousarray(arrays[port.name])) for port in inputs)
