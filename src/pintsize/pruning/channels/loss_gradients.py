"""Gradients of the loss with respect to single weights, over whole batches of data.

Batch norms normalise with the statistics of the batch, as in training (at initialisation they have no
others), dropout is off; running statistics and gradients of the caller are as before afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...data.batches import run
from ...graph.trace import quiet
from .statistics import Statistics

Weights = Mapping[str, Tensor]
"""Parameter name → weight."""
_GRASP_TEMPERATURE = 200.0
"""Softens the logits so that the untrained network's gradient is not ruled by a few images (the authors' code)."""


@contextlib.contextmanager
def _batch_statistics(model: nn.Module) -> Iterator[None]:
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    saved = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    with quiet(model), torch.enable_grad():
        for norm in norms:
            norm.train()
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in saved:
                    buffer.copy_(value)


def mean_gradients(weights: Weights, statistics: Statistics, what: str) -> dict[str, Tensor]:
    """Mean over the batches of the loss's gradient."""
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    count = 0
    for grads in _each_batch(weights, statistics, what, statistics.loss, create_graph=False):
        for name, grad in zip(weights, grads, strict=True):
            total[name] += grad
        count += 1
    return {name: tensor / count for name, tensor in total.items()}


def hessian_times_gradient(weights: Weights, statistics: Statistics, what: str) -> dict[str, Tensor]:
    """`H·g` of the mean loss, by differentiating the product of the gradient with itself held fixed."""
    loss = _softened if statistics.loss is F.cross_entropy else statistics.loss
    mean = [torch.zeros_like(weight) for weight in weights.values()]
    count = 0
    for grads in _each_batch(weights, statistics, what, loss, create_graph=False):
        for total, grad in zip(mean, grads, strict=True):
            total += grad  # noqa: PLW2901 (in place)
        count += 1
    mean = [total / count for total in mean]
    product = [torch.zeros_like(weight) for weight in weights.values()]
    for grads in _each_batch(weights, statistics, what, loss, create_graph=True):
        inner = sum((g * fixed).sum() for g, fixed in zip(grads, mean, strict=True))
        again = torch.autograd.grad(inner, list(weights.values()), materialize_grads=True)  # type: ignore[arg-type]
        for total, one in zip(product, again, strict=True):
            total += one / count  # noqa: PLW2901 (in place)
    return dict(zip(weights, product, strict=True))


def _softened(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits / _GRASP_TEMPERATURE, labels)


def _each_batch(
    weights: Weights,
    statistics: Statistics,
    what: str,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    create_graph: bool,
) -> Iterator[tuple[Tensor, ...]]:
    """The gradients of `weights` on each batch."""
    with _batch_statistics(statistics.model):
        for images, labels in statistics.batches(what):
            value = loss(run(statistics.model, images), labels)
            yield torch.autograd.grad(
                value, list(weights.values()), create_graph=create_graph, materialize_grads=True
            )
