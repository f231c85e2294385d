"""The first batches by way of trial: what does not fit is told before hours of training."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pintsize.data.batches import moved, split_batch
from pintsize.errors import InputTypeError, OperationError
from pintsize.graph.state import training_undone
from pintsize.tasks import Task
from pintsize.tasks.classification import Classification, check_labels
from pintsize.tasks.metric import value_of
from pintsize.tasks.own import FunctionFailed
from pintsize.tasks.task import checked, unfit

from .evaluation import score
from .placement import device_of, keeping_modes


def rehearse(model: nn.Module, data: Any, task: Task, *, training: bool = True) -> None:
    """Loss and metric of a few images of each split, in eval mode; a network's own loss in training mode.

    Args:
        model: as before afterwards, its buffers included.
        data: its splits; where the metric is not defined for a few images, all of `val` is judged.
        task: to try.
        training: whether there will be any; else `val` alone is looked at.

    Raises:
        InputTypeError: there are no targets, or they are none of the task.
        InputError: targets that the network has no output for.
        OperationError: loss or metric fail or are not finite.
    """
    classes = len(data.classes)
    for split in (data.train, data.val) if training else (data.val,):
        if split is None or not len(split):
            continue
        inputs, targets = _first(model, split, task)
        learned = training and split is data.train
        with keeping_modes(model), torch.set_grad_enabled(learned):
            model.eval()
            value = checked(task, model, (inputs, targets), num_classes=classes)
            labels = getattr(split, "labels", None)
            if isinstance(task, Classification) and isinstance(labels, Tensor):  # all of them are at hand
                check_labels(labels, (len(labels), task.outputs(model, inputs, classes).shape[1]))
        if task.own_step and learned:
            _step(model, task, inputs, targets)
        if value is not None and not math.isfinite(value) and split is data.val:
            value_of(task.judged(), score(model, split, task, loss=False).records)


def _first(model: nn.Module, split: Any, task: Task) -> tuple[Any, Any]:
    device = device_of(model)
    inputs, targets = split_batch(next(iter(split.batches(2, device=device))), model)
    if targets is None:
        raise InputTypeError(
            f"a batch without targets for task {task.name!r}", "there is nothing to learn from",
            "give out (inputs, targets), or learn from a network: task='imitation' with teacher=",
        )  # fmt: skip
    return moved(inputs, device), moved(targets, device)


def _step(model: nn.Module, task: Task, inputs: Any, targets: Any) -> None:
    with training_undone(model), keeping_modes(model), torch.enable_grad():
        model.train()
        try:
            loss = task.step(model, inputs, targets)
        except FunctionFailed as error:
            raise unfit(task, "step", error.__cause__ or error, targets) from error
        except InputTypeError:
            raise
        except Exception as error:
            raise unfit(task, "step", error, targets) from error
    if not torch.isfinite(loss):
        raise OperationError(
            f"step of task {task.name!r}", f"its loss is {loss.item()} on the first batch",
            "check the range of inputs and targets, and the weights",
        )  # fmt: skip
