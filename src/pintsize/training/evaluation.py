"""A network, or a file opened in a runtime, judged by its task's metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pintsize.data.batches import Inputs, class_labels, moved, rows, size, split_batch
from pintsize.errors import InputTypeError
from pintsize.graph.inputs import batched
from pintsize.graph.structure import structured
from pintsize.tasks import Task, task_of
from pintsize.tasks.catalog import with_task
from pintsize.tasks.forward import in_single
from pintsize.tasks.metric import joined, value_of

from .placement import device_of, keeping_modes

if TYPE_CHECKING:
    from pintsize.data import Split


def evaluate(
    model_or_runtime: nn.Module | Callable[..., Any],
    split: Split | Iterable[Any],
    *,
    task: Task | str | Mapping[str, Any] | None = None,
    batch_size: int = 256,
) -> float:
    """The metric of a task over a split: of a classification the top-1 accuracy in percent.

    A module runs in eval mode, without gradients, in the precision of its own weights (no autocast), where
    it is; its modes are as before afterwards. Anything else is called on float32 arrays.

    Args:
        model_or_runtime: a network, or what `pintsize.open_runtime` returns.
        split: a split, or any iterable of `(inputs, targets)` batches; see `pintsize.data.split_batch`.
        task: see `pintsize.train`.
        batch_size: images at a time, for a split.

    Returns:
        The metric in its own units.

    Raises:
        InputError: no images, fewer outputs than classes, no such task, or one without a metric.
        InputTypeError: not something to evaluate, or targets that are not of the task.
        OperationError: the forward fails, or the metric is not finite.
    """
    chosen = task_of(task, split)
    return value_of(chosen.judged(), records_of(model_or_runtime, split, task=chosen, batch_size=batch_size))


def records_of(
    model_or_runtime: nn.Module | Callable[..., Any], split: Any, *, task: Task, batch_size: int = 256
) -> Sequence[Any]:
    """What the task's metric notes of each image; see `evaluate`."""
    task.judged()
    _, split = with_task(task, split)
    if isinstance(model_or_runtime, nn.Module):
        return score(model_or_runtime, split, task, batch_size=batch_size, loss=False).records
    if callable(model_or_runtime):
        return _of_runtime(model_or_runtime, split, task, batch_size)
    raise InputTypeError(
        f"evaluate on {type(model_or_runtime).__name__}",
        "it is neither a network nor a runtime",
        "pass an nn.Module or ps.open_runtime(path)",
    )


@dataclass
class Score:
    """Sums over a split."""

    loss: float
    """Summed over the images; 0 where the network computes it itself."""
    count: int
    records: Sequence[Any]


@torch.no_grad()
def score(
    model: nn.Module,
    split: Any,
    task: Task,
    *,
    batch_size: int = 256,
    part: tuple[int, int] = (0, 1),
    loss: bool = True,
) -> Score:
    """Loss and records of a network over a split, of share `part` = (index, of how many)."""
    device = device_of(model)
    total = torch.zeros((), device=device)
    count, classes, parts = 0, _classes(split), list[Any]()
    with keeping_modes(model), torch.autocast(device.type, enabled=False):
        model.eval()
        for batch in batches_of(split, batch_size, device):
            inputs, targets = _judged(batch, model, task)
            n, (index, of) = size(inputs), part
            if of > 1:
                inputs, targets = (
                    rows(each, index * n // of, (index + 1) * n // of, of=n) for each in (inputs, targets)
                )
            inputs, targets = moved(inputs, device), moved(targets, device)
            if not size(inputs):
                continue
            with batched(model):
                outputs = in_single(task.outputs(model, inputs, classes))
            if loss and not task.own_step:
                total += task.total(outputs, targets, size(inputs))
            if task.metric is not None:
                parts.append(task.metric.records(outputs, targets))
            count += size(inputs)
    return Score(float(total), count, joined(parts))


def batches_of(source: Any, batch_size: int, device: torch.device) -> Iterable[Any]:
    """The batches of a split on `device`, or `source` itself if it is an iterable of batches."""
    if hasattr(source, "batches"):
        return source.batches(batch_size, device=device)  # type: ignore[no-any-return]
    if isinstance(source, Iterable):
        return source
    raise InputTypeError(
        f"split of type {type(source).__name__}",
        "it does not give batches",
        "pass data.val, data.test, or an iterable of (images, labels)",
    )


def _of_runtime(runtime: Callable[..., Any], split: Any, task: Task, batch_size: int) -> Sequence[Any]:
    def network(*args: Any) -> Any:
        given = [leaf.numpy() for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        found = tree_map(lambda leaf: torch.as_tensor(np.asarray(leaf)), runtime(*given))
        return structured(found, getattr(runtime, "structure", None))

    metric, parts, names = task.judged(), [], getattr(runtime, "input_names", ())
    for batch in batches_of(split, batch_size, torch.device("cpu")):
        inputs, targets = _judged(batch, None, task, names)
        inputs, targets = moved(inputs, "cpu"), moved(targets, "cpu")
        if size(inputs):
            parts.append(metric.records(task.outputs(network, inputs, _classes(split)), targets))
    return joined(parts)


def _judged(batch: Any, model: nn.Module | None, task: Task, names: Sequence[str] = ()) -> tuple[Inputs, Any]:
    """Inputs and targets of a batch; of a classification classes int64 [B].

    Raises:
        InputTypeError: its targets are no classes, or there are none.
    """
    inputs, targets = split_batch(batch, model, names=names)
    if task.key != "accuracy":
        if targets is None:
            raise InputTypeError(
                f"a batch without targets for task {task.name!r}",
                "there is nothing to judge by",
                "give out (inputs, targets); for imitation ps.tasks.imitate(data, dense) makes them",
            )
        return inputs, targets
    labels = class_labels(targets, size(inputs))
    if labels is None:
        told = (
            f"{targets.dtype} of shape {list(targets.shape)}"
            if isinstance(targets, Tensor)
            else type(targets).__name__
        )
        raise InputTypeError(
            f"targets of {size(inputs)} images",
            f"accuracy needs one class for each, and they are {told if targets is not None else 'not there'}",
            "give out (images, labels) with whole numbers [B], or name the task, such as task='segmentation'",
        )
    return inputs, labels


def _classes(source: Any) -> int:
    return len(getattr(source, "classes", ()))
