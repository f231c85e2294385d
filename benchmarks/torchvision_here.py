"""torchvision, also where its compiled part does not load: then its one op that detectors call is written here."""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import Any

import torch
from torch import Tensor

from pintsize.tasks.detection import overlap

_OPS: list[torch.library.Library] = []
"""They live as long as this."""


def imported(name: str) -> Any:
    """A module of torchvision, or of a package that needs it.

    Raises:
        ImportError: it is not installed.
    """
    if not _OPS:
        with contextlib.suppress(RuntimeError, AttributeError):
            return importlib.import_module(name)
        parts = [
            key for key in sys.modules if key.split(".")[0] in ("torchvision", name.split(".", maxsplit=1)[0])
        ]
        for key in parts:
            del sys.modules[key]
        _declare()
    module = importlib.import_module(name)
    importlib.import_module("torchvision.extension")._has_ops = lambda: True
    return module


def _declare() -> None:
    ops = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        ops.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    ops.impl("nms", _nms, "CPU")
    _OPS.append(ops)


def _nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes that stay, the best score first."""
    gone, kept, same = torch.zeros(len(boxes), dtype=torch.bool), [], overlap(boxes, boxes) > threshold
    for index in scores.argsort(descending=True).tolist():
        if not gone[index]:
            kept.append(index)
            gone |= same[index]
    return torch.tensor(kept, dtype=torch.int64)
