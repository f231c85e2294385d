"""Imitation: the task without labels. Targets are the dense network's outputs on the same images."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Data
from ..data.batches import moved, run, split_batch
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
    return (1 - relative_errors(outputs, targets).sqrt()).clamp_min(0)


def imitate(data: Data, dense: nn.Module) -> Data:
    """The images of `data` with what `dense` says of them as targets.

    Args:
        data: its own targets, if it has any, do not count.
        dense: copied; runs in eval mode where it is.
    """
    teacher = copy.deepcopy(dense).eval().requires_grad_(False)
    parts = {part: Taught(getattr(data, part), teacher) for part in ("train", "val", "test")}
    return dataclasses.replace(data, **parts, task=parts["val"].task)  # type: ignore[arg-type]


def taught(task: Task, data: Any, network: nn.Module) -> Any:
    """`data`, for imitation with what `network` itself says as targets: what a change to it costs is then seen.

    Args:
        task: any.
        data: a data set or a split; other batches stay as they are.
        network: copied.
    """
    given = getattr(data, "val", data)
    if not isinstance(task, Imitation) or isinstance(given, Taught) or not hasattr(given, "batches"):
        return data
    return imitate(data, network) if isinstance(data, Data) else Taught(data, copy.deepcopy(network).eval())


class Taught:
    """A split whose targets are a network's outputs; all else is that of the split.

    Args:
        split: any.
        teacher: in eval mode.
    """

    def __init__(self, split: Any, teacher: nn.Module) -> None:
        self._split, self._teacher = split, teacher
        self.task = Imitation()
        self.classes: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # while it is being copied there is nothing to ask yet
            raise AttributeError(name)
        return getattr(self._split, name)

    def __len__(self) -> int:
        return len(self._split)

    def __iter__(self) -> Iterator[Any]:
        return self.batches()

    def batches(self, *args: Any, **options: Any) -> Iterator[Any]:
        """Inputs, and what the teacher says of them."""
        for batch in self._split.batches(*args, **options):
            inputs, _ = split_batch(batch, self._teacher)
            device = next(self._teacher.parameters()).device
            with torch.no_grad():  # and not while whoever asked goes on
                targets = run(self._teacher, moved(inputs, device))
            yield inputs, moved(targets, options.get("device", "cpu"))

    def take(self, images: Tensor) -> Taught:
        """As of the split."""
        return Taught(self._split.take(images), self._teacher)

    def subset(self, n: int, seed: int = 0) -> Taught:
        """As of the split."""
        return Taught(self._split.subset(n, seed), self._teacher)

    def at_most(self, n: int, seed: int = 0) -> Taught:
        """As of the split."""
        return Taught(self._split.at_most(n, seed), self._teacher)

    def for_task(self, task: Any) -> Any:
        """The same images for another task, with their own targets."""
        return self if isinstance(task, Imitation) else self._split.for_task(task)
