"""Imitation: the task without labels. Targets are the dense network's outputs on the same images.

Letters: B images, K classes.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..data import Data
from ..data.batches import Inputs, moved, rows, split_batch
from ..errors import InputError
from ..storage.record import origin
from .forward import outputs_of
from .metric import Mean
from .task import TASKS, Task, relative_errors
from .teaching import OUTPUTS, Lesson, Taught, plain, watched

_SUM, _NEGATIVE, _LEAST = 1e-3, -1e-5, 1e-8
"""By how much shares may miss a sum of 1, and be below 0; what logarithms are taken of at least."""
_PROBE = 0.1
"""Size of the random change of outputs that gradients are asked about, relative to the outputs."""


@TASKS.register("imitation")
class Imitation(Task):
    """Be like the dense network.

    Loss: the relative squared error of every output; for outputs that are distributions, such as those of a softmax, the
    Kullback-Leibler divergence from the dense network's; where there are decisions, the sum of the relative error and the
    divergence of the softmax. Metric: fidelity, 100 × (1 − relative error), not below 0; or, where there are decisions, the
    percentage of images for which both have the same class.

    Args:
        decisions: whether outputs `[B, K]` are scores of classes, of which the largest counts. By default they are where
            they are a distribution, or the dense network is one of `pintsize.models` with K classes.
        features: weight of the relative error, over a batch, of feature maps inside the network, at modules whose outputs
            still have the dense network's shape (FitNets, Romero et al., 1412.6550, without its regressor); 0 for none. Of
            a network from a file that decodes its results: at the layers in front of that.
        mix: share of the images of an augmented batch that are blended with another one of it (mixup, Zhang et al.,
            1710.09412): the dense network says what they are.
    """

    name = "imitation"

    def __init__(self, decisions: bool | None = None, features: float = 0.0, mix: float = 0.0) -> None:
        for option, value, most in (("features", features, float("inf")), ("mix", mix, 1.0)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                told = "no number from 0 to 1" if most == 1 else "no number of at least 0"
                raise InputError(f"{option}={value!r}", f"it is {told}", "pass 0.5, or 0 for none")
        self.decisions, self.features, self.mix = decisions, float(features), float(mix)
        fidelity = Mean("fidelity", _fidelity, unit="%", scale=100.0)
        super().__init__(
            metric=Mean("agreement", _agreement, unit="%", scale=100.0) if decisions else fidelity
        )

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Mean over images and outputs."""
        ours, theirs = plain(outputs), plain(targets)
        errors = relative_errors(ours, theirs)  # refuses outputs that do not fit each other
        pairs = list(zip(tree_leaves(ours), tree_leaves(theirs), strict=True))
        divergences = [
            _divergence(a.float().clamp_min(_LEAST).log(), b.float(), dim)
            for a, b in pairs
            if (dim := distribution(b)) is not None
        ]
        if len(divergences) == len(pairs):
            total = torch.stack(divergences).mean()
        elif self.decisions:
            sums = [
                _divergence(F.log_softmax(a.float(), 1), F.softmax(b.float(), 1), 1)
                for a, b in pairs
                if _scores(b)
            ]
            total = errors.mean() + (torch.stack(sums).mean() if sums else 0.0)
        else:
            total = errors.mean() + (torch.stack(divergences).sum() / len(pairs) if divergences else 0.0)
        if self.features and outputs is not ours and targets is not theirs:
            total = total + self.features * _of_features(outputs, targets)
        return total

    def outputs(self, network: Callable[..., Any], inputs: Inputs, num_classes: int = 0) -> Any:
        """What the network makes of the inputs, with feature maps where these count."""
        if not self.features or not isinstance(network, nn.Module):
            return outputs_of(network, inputs)
        with watched(network) as maps:
            return {OUTPUTS: outputs_of(network, inputs), "features": maps}

    def agreement(self, ours: Any, theirs: Any) -> Tensor | None:
        """Whether the class is the same, where outputs are scores of classes."""
        ours, theirs = plain(ours), plain(theirs)
        if not isinstance(theirs, Tensor) or not isinstance(ours, Tensor) or ours.shape != theirs.shape:
            return None
        decides = (distribution(theirs) == 1) if self.decisions is None else self.decisions
        return ours.argmax(1) == theirs.argmax(1) if decides and _scores(theirs) else None

    def resolved(self, teacher: nn.Module, outputs: Any) -> Imitation:
        """With what `outputs`, the teacher's, tell about decisions."""
        if self.decisions is not None:
            return self
        scores = plain(outputs)
        made = origin(teacher) or {"options": {}}
        decides = isinstance(scores, Tensor) and _scores(scores) and (
            distribution(scores) == 1 or made["options"].get("num_classes") == scores.shape[1]
        )  # fmt: skip
        return Imitation(bool(decides), self.features, self.mix)

    def probe(self, outputs: Any, generator: torch.Generator) -> Any:
        """Targets a random step away from a network's own outputs, for criteria by gradients.

        At its own outputs the gradient of the error is zero. That of the distance to a random target is a random
        projection of the outputs' Jacobian, whose square estimates the Gauss-Newton diagonal (Hutchinson's estimate).
        """

        def moved_away(one: Any) -> Any:
            if not isinstance(one, Tensor) or not one.is_floating_point():
                return one
            value = one.detach().float()
            noise = torch.randn(value.shape, generator=generator).to(value.device)
            dim = distribution(value)
            if dim is not None:
                changed = value * (_PROBE * noise).exp()
                return changed / changed.sum(dim, keepdim=True).clamp_min(_LEAST)
            return value + _PROBE * value.square().mean().sqrt() * noise

        return tree_map(moved_away, plain(outputs))


def distribution(output: Any) -> int | None:
    """The dimension along which an output is a distribution: 1, as of classes, or else the last one; None for none."""
    if (
        not isinstance(output, Tensor)
        or not output.is_floating_point()
        or output.dim() < 2
        or not output.numel()
    ):
        return None
    values = output.detach()
    if values.min() < _NEGATIVE or values.max() > 1 + _SUM:
        return None
    for dim in dict.fromkeys((1, output.dim() - 1)):
        if output.shape[dim] > 1 and (values.sum(dim) - 1).abs().max() < _SUM:
            return dim
    return None


def _scores(output: Tensor) -> bool:
    return (
        isinstance(output, Tensor)
        and output.dim() == 2
        and output.shape[1] > 1
        and output.is_floating_point()
    )


def _divergence(ours: Tensor, theirs: Tensor, dim: int) -> Tensor:
    """Σ t (log t − log o) along `dim`, the mean over all else."""
    divergence: Tensor = (torch.xlogy(theirs, theirs) - theirs * ours).sum(dim).mean()
    return divergence


def _of_features(outputs: Mapping[str, Any], targets: Mapping[str, Any]) -> Tensor:
    """The mean relative error of the maps that have equal shapes."""
    ours, theirs = outputs["features"], targets["features"]
    same = [name for name in theirs if name in ours and ours[name].shape == theirs[name].shape]
    if not same:
        raise InputError(
            "features of task 'imitation'", "no map inside the network has the dense network's shape",
            "leave features out; they are for networks that keep some of their channels",
        )  # fmt: skip
    pairs = [(ours[name].float(), theirs[name].float()) for name in same]
    # over all images together: a map that is nearly 0 on one of them would count for all others
    return torch.stack([(a - b).square().sum() / b.square().sum().clamp_min(_LEAST) for a, b in pairs]).mean()


def _fidelity(outputs: Any, targets: Any) -> Tensor:
    fidelity: Tensor = (1 - relative_errors(plain(outputs), plain(targets)).sqrt()).clamp_min(0)
    return fidelity


def _agreement(outputs: Any, targets: Any) -> Tensor:
    ours, theirs = plain(outputs), plain(targets)
    relative_errors(ours, theirs)  # the same shapes
    if not isinstance(theirs, Tensor) or not _scores(theirs):
        raise InputError(
            "decisions of task 'imitation'",
            "the outputs are no scores of classes, [B, K]",
            "leave decisions out",
        )
    return (torch.as_tensor(ours).argmax(1) == theirs.argmax(1)).float()


def imitate(data: Any, dense: nn.Module, task: Imitation | None = None) -> Any:
    """The images of `data` with what `dense` says of them as targets.

    Args:
        data: splits, or one of them, or an iterable of batches; its own targets, if it has any, do not count. What is
            taught already stays as it is.
        dense: copied; runs in eval mode where it is.
        task: with options of its own.

    Returns:
        The same, for the task imitation. Outputs on images that are not augmented are computed once, and kept.
    """
    first = getattr(data, "val", data)
    if isinstance(first, Taught):
        return data
    teacher = copy.deepcopy(dense).eval().requires_grad_(False)
    asked = task or Imitation()
    if asked.decisions is None:
        asked = asked.resolved(teacher, _two(first, teacher))
    lesson = Lesson(teacher, asked)
    if not isinstance(data, Data):
        return Taught(data, lesson)
    parts = {part: Taught(getattr(data, part), lesson) for part in ("train", "val", "test")}
    return dataclasses.replace(data, **parts, task=asked)  # type: ignore[arg-type]


def _two(split: Any, teacher: nn.Module) -> Any:
    """What the teacher says of two images."""
    batch = next(iter(split.batches(2) if hasattr(split, "batches") else split), None)
    if batch is None:
        return None
    inputs, _ = split_batch(batch, teacher)
    device = next((one.device for one in teacher.parameters()), torch.device("cpu"))
    with torch.no_grad():
        return outputs_of(teacher, moved(rows(inputs, 0, 2), device))
