"""Imitation: the task without labels. Targets are the dense network's outputs on the same images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .metric import Mean
from .task import TASKS, Task, relative_errors


@TASKS.register("imitation")
class Imitation(Task):
    """Relative squared error of every output; fidelity: 100 × (1 − relative error), not below 0."""

    name = "imitation"

    def __init__(self) -> None:
        super().__init__(metric=Mean("fidelity", _fidelity, unit="%", scale=100.0))

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Mean over images and outputs."""
        return relative_errors(outputs, targets).mean()


def _fidelity(outputs: Any, targets: Any) -> Tensor:
    return (1 - torch.as_tensor(relative_errors(outputs, targets)).sqrt()).clamp_min(0)
