"""Accuracy of a network or of a file opened in a runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pintsize.data.batches import Inputs, class_labels, moved, rows, size, split_batch
from pintsize.errors import InputError, InputTypeError
from pintsize.graph.inputs import batched

from .forward import logits_of
from .placement import device_of, keeping_modes

if TYPE_CHECKING:
    from pintsize.data import Split


def evaluate(
    model_or_runtime: nn.Module | Callable[[Any], Any],
    split: Split | Iterable[tuple[Tensor, Tensor]],
    *,
    batch_size: int = 256,
) -> float:
    """Top-1 accuracy in percent.

    A module runs in eval mode, without gradients, in the precision of its own weights (no autocast), where
    it is; its modes are as before afterwards. Anything else is called on `float32 [B, C, H, W]` arrays.

    Args:
        model_or_runtime: a network, or what `pintsize.open_runtime` returns.
        split: a split, or any iterable of `(inputs, labels)` batches; see `pintsize.data.split_batch`.
        batch_size: images at a time, for a split.

    Raises:
        InputError: no images, or fewer outputs than classes.
        InputTypeError: not something to evaluate.
        OperationError: the forward fails.
    """
    if isinstance(model_or_runtime, nn.Module):
        device = device_of(model_or_runtime)
        _, correct, count = score(
            model_or_runtime, batches_of(split, batch_size, device), _classes(split), device
        )
    elif callable(model_or_runtime):
        right = hits(model_or_runtime, split, batch_size=batch_size)
        correct, count = int(right.sum()), len(right)
    else:
        raise InputTypeError(
            f"evaluate on {type(model_or_runtime).__name__}",
            "it is neither a network nor a runtime",
            "pass an nn.Module or ps.open_runtime(path)",
        )
    if not count:
        raise InputError("split to evaluate on", "it has no images", "pass a split with at least one")
    return 100.0 * correct / count


@torch.no_grad()
def score(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    device: torch.device,
    *,
    part: tuple[int, int] = (0, 1),
) -> tuple[float, int, int]:
    """Summed cross-entropy, correct predictions and images, of share `part` = (index, of how many)."""
    loss = torch.zeros((), device=device)
    correct = torch.zeros((), device=device, dtype=torch.int64)
    count = 0
    with keeping_modes(model), torch.autocast(device.type, enabled=False):
        model.eval()
        for batch in batches:
            inputs, labels = _classified(batch, model)
            n, (index, of) = size(inputs), part
            if of > 1:
                inputs, labels = (
                    rows(each, index * n // of, (index + 1) * n // of, of=n) for each in (inputs, labels)
                )
            inputs, labels = moved(inputs, device), labels.to(device)
            if not len(labels):
                continue
            with batched(model):
                logits = logits_of(model, inputs, num_classes).float()
            loss += F.cross_entropy(logits, labels, reduction="sum")
            correct += (logits.argmax(1) == labels).sum()
            count += len(labels)
    return float(loss), int(correct), count


def batches_of(source: Any, batch_size: int, device: torch.device) -> Iterable[tuple[Tensor, Tensor]]:
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


def _classified(batch: Any, model: nn.Module | None) -> tuple[Inputs, Tensor]:
    """Inputs and classes int64 [B] of a batch.

    Raises:
        InputTypeError: its targets are no classes.
    """
    inputs, targets = split_batch(batch, model)
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
            "give out (images, labels) with whole numbers [B]",
        )
    return inputs, labels


def _classes(source: Any) -> int:
    return len(getattr(source, "classes", ()))


def hits(runtime: Callable[[Any], Any], split: Any, *, batch_size: int = 256) -> Tensor:
    """Which images a runtime classifies rightly, bool [N]; see `evaluate`."""
    found = [torch.zeros(0, dtype=torch.bool)]
    for batch in batches_of(split, batch_size, torch.device("cpu")):
        inputs, labels = _classified(batch, runtime if isinstance(runtime, nn.Module) else None)
        logits = logits_of(
            lambda *x: torch.as_tensor(np.asarray(runtime(*(each.numpy() for each in x)))),
            moved(inputs, "cpu"),
            _classes(split),
        )
        found.append(logits.argmax(1) == labels.cpu())
    return torch.cat(found)
