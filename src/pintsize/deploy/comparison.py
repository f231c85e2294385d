"""The outputs of a file beside those of its model, summed over all batches, whatever their structure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..data.batches import Inputs, class_labels, moved, run
from ..tasks import Task
from .tolerance import explained, outputs_of

_SAMPLE = 64
"""Images that the tolerance is measured on."""


@dataclass
class _Sums:
    """Of one output."""

    squared_error: float = 0.0
    squared: float = 0.0
    largest: float = 0.0
    total: float = 0.0
    count: int = 0

    def add(self, ours: Tensor, reference: Tensor) -> None:
        if ours.shape != reference.shape or not (ours.isfinite().all() and reference.isfinite().all()):
            self.squared_error = self.largest = self.total = math.inf
            self.count += max(1, reference.numel())
            return
        if not reference.numel():
            return
        a, b = ours.double(), reference.double()
        if not reference.is_floating_point():  # classes, masks: how many differ, not by how much
            a, b = (a != b).double() + 1, torch.ones_like(b)
        difference = (a - b).abs()
        self.squared_error += float(difference.square().sum())
        self.squared += float(b.square().sum())
        self.largest = max(self.largest, float(difference.max()))
        self.total += float(difference.sum())
        self.count += difference.numel()

    @property
    def error(self) -> float:
        """‖file − model‖ / ‖model‖; of outputs that are all 0, how far from 0 the file's are on average."""
        if self.squared_error == 0 or math.isinf(self.squared_error):
            return self.squared_error
        return math.sqrt(self.squared_error / (self.squared or self.count))


@dataclass
class Comparison:
    """Running sums over the batches.

    Args:
        task: by which file and model are judged; None: by whether they are classifications, as the outputs show.
    """

    task: Task | None = None
    images: int = 0
    outputs: list[_Sums] = field(default_factory=list)
    structure: str | None = None
    """What is wrong if file and model do not give as many outputs."""
    classified: int = 0
    """Images with a class for each output: logits [B, K ≥ 2], and targets that are classes if there are any."""
    same: int = 0
    labelled: int = 0
    file_right: int = 0
    model_right: int = 0
    file_records: list[Any] = field(default_factory=list)
    """What the task's metric notes of each image."""
    model_records: list[Any] = field(default_factory=list)
    alike: list[float] = field(default_factory=list)
    """Of each image, how far the decisions agree, 0–1."""
    sample: list[Inputs] = field(default_factory=list)
    """Some images, to measure the tolerance and to look into the layers with."""

    def add(
        self, inputs: Inputs, count: int, ours: Sequence[Tensor], reference: Sequence[Tensor], targets: object,
        outputs: Any = None,
    ) -> None:  # fmt: skip
        """Take the outputs of one batch of `count` images; `outputs` are the model's in their own structure."""
        if self.images < _SAMPLE:
            self.sample.append(inputs)
        self.images += count
        if len(ours) != len(reference):
            self.structure = f"the file gives {len(ours)} outputs, the model {len(reference)}"
            return
        self.outputs = self.outputs or [_Sums() for _ in ours]
        for sums, found, wanted in zip(self.outputs, ours, reference, strict=True):
            sums.add(found, wanted)
        if self.task is None or self.task.key == "accuracy":
            self._classes(count, ours, reference, targets)
        else:
            self._judge(self.task, ours, outputs, targets)

    def _judge(self, task: Task, ours: Sequence[Tensor], outputs: Any, targets: object) -> None:
        """The file's outputs, in the structure of the model's, beside them."""
        outputs = moved(outputs, "cpu")
        leaves, structure = tree_flatten(outputs)
        found = iter(ours)
        file = tree_unflatten(
            [next(found) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure
        )
        if task.metric is not None and targets is not None:
            truth = moved(targets, "cpu")
            self.file_records += list(task.metric.records(file, truth))
            self.model_records += list(task.metric.records(outputs, truth))
        if (same := task.agreement(file, outputs)) is not None:
            self.alike += torch.as_tensor(same).float().flatten().tolist()

    def metric(self, records: list[Any]) -> float | None:
        """The task's metric of one of the two; None where there were no targets, or it is not defined for these."""
        if self.task is None or self.task.metric is None or not records:
            return None
        value = self.task.metric.value(records)
        return None if math.isnan(value) else value

    def _classes(
        self, count: int, ours: Sequence[Tensor], reference: Sequence[Tensor], targets: object
    ) -> None:
        labels = class_labels(targets, count)
        if not ours or ours[0].shape != reference[0].shape or not ours[0].is_floating_point():
            return
        logits = ours[0].dim() == 2 and ours[0].shape[1] > 1 and len(ours[0]) == count
        if not logits or (labels is None and (targets is not None or len(ours) > 1)):
            return
        top, expected = ours[0].argmax(1), reference[0].argmax(1)
        self.classified += count
        self.same += int((top == expected).sum())
        if labels is not None:
            self.labelled += count
            self.file_right += int((top == labels.cpu()).sum())
            self.model_right += int((expected == labels.cpu()).sum())

    @property
    def agreement(self) -> float | None:
        """Percent of the images with the same top-1 class, or on which decisions agree; None where there are none."""
        if self.alike:
            return 100 * sum(self.alike) / len(self.alike)
        return (
            100 * self.same / self.classified if self.classified and self.classified == self.images else None
        )

    def percent(self, count: int) -> float | None:
        """`count` of the labelled images in percent; None if there are none."""
        return 100 * count / self.labelled if self.labelled else None

    @property
    def errors(self) -> tuple[float, ...]:
        """The relative error of each output."""
        return (math.inf,) if self.structure else tuple(sums.error for sums in self.outputs)

    def allowed(self, model: nn.Module) -> tuple[float, ...]:
        """For each output the relative error that rounding explains, measured on the sample."""

        def compute() -> list[Tensor]:
            parts = [outputs_of(run(model, inputs)) for inputs in self.sample]
            return [torch.cat([_flat(part) for part in output]) for output in zip(*parts, strict=True)]

        wanted = compute()
        return tuple(explained(compute, wanted, _relative, enough=self.errors))


def _flat(output: Tensor) -> Tensor:
    return output.reshape(-1)


def _relative(found: Tensor, wanted: Tensor) -> float:
    sums = _Sums()
    sums.add(found, wanted)
    return sums.error
