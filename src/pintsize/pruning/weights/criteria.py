"""How much each single weight matters: a registry of criteria, a score for each weight out.

Symbols: `w` weight, `g` gradient of the loss, `H` its Hessian. Higher scores are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ...data.batches import rows, run
from ...errors import InputError, unknown
from ...graph.trace import quiet
from ..channels.loss_gradients import Weights, hessian_times_gradient, mean_gradients
from ..channels.statistics import Statistics


class ElementCriterion(Protocol):
    """Scores for all weights that are ranked."""

    def __call__(self, weights: Weights, statistics: Statistics, scope: str) -> Mapping[str, Tensor]:
        """Parameter name → scores shaped like the weight; `scope` is 'global' or 'local'."""
        ...


@dataclass(frozen=True)
class Registered:
    """A criterion and how it is used where the user says nothing."""

    score: ElementCriterion
    batches: int | None
    """Batches of the data to look at; None for all of them."""
    steps: int
    """Rounds in which the density falls to its goal."""


_CRITERIA: dict[str, Registered] = {}


def element_criterion(
    name: str, *, batches: int | None = None, steps: int = 1
) -> Callable[[ElementCriterion], ElementCriterion]:
    """Decorator: register a criterion for single weights, to be used as `sparsify(importance=name)`.

    Args:
        name: of the criterion.
        batches: how many batches of the data it looks at by default; None for all.
        steps: in how many rounds the density falls by default.
    """

    def register(function: ElementCriterion) -> ElementCriterion:
        _CRITERIA[name] = Registered(function, batches, steps)
        return function

    return register


def find(name: str) -> Registered:
    """The criterion of that name."""
    if name not in _CRITERIA:
        raise unknown("importance", name, _CRITERIA)
    return _CRITERIA[name]


def names() -> list[str]:
    """The registered criteria for single weights."""
    return sorted(_CRITERIA)


def element_scores(name: str, weights: Weights, statistics: Statistics, scope: str) -> dict[str, Tensor]:
    """The scores of a criterion, checked.

    Raises:
        InputError: no such criterion, or a weight whose score is NaN or infinite.
    """
    scores = dict(find(name).score(weights, statistics, scope))
    for weight, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise InputError(
                f"importance {name!r} of {weight!r}",
                "weights, gradients or both are NaN or infinite",
                "check the weights and the data for NaN, or train with a lower learning rate first",
            )
    return {weight: score.detach() for weight, score in scores.items()}


@element_criterion("magnitude")
def magnitude(weights: Weights, statistics: Statistics, scope: str) -> Mapping[str, Tensor]:  # noqa: ARG001
    """|w| (Han et al., 1506.02626, section 3)."""
    return {name: weight.detach().abs() for name, weight in weights.items()}


@element_criterion("random")
def random(weights: Weights, statistics: Statistics, scope: str) -> Mapping[str, Tensor]:  # noqa: ARG001
    """Uniform numbers, the same for the same seed: the baseline."""
    return {
        name: torch.rand(weight.shape, generator=statistics.generator).to(weight.device)
        for name, weight in weights.items()
    }


@element_criterion("snip", batches=1)
def snip(weights: Weights, statistics: Statistics, scope: str) -> Mapping[str, Tensor]:  # noqa: ARG001
    """|w·g| over its total (Lee et al., 1810.02340, equation 6)."""
    gradients = mean_gradients(weights, statistics, "snip")
    scores = {name: (weight.detach() * gradients[name]).abs() for name, weight in weights.items()}
    total = sum(float(score.double().sum()) for score in scores.values())
    return {name: score / (total or 1.0) for name, score in scores.items()}


@element_criterion("grasp", batches=1)
def grasp(weights: Weights, statistics: Statistics, scope: str) -> Mapping[str, Tensor]:  # noqa: ARG001
    """w·(H·g): its removal lowers the gradient flow by this much (Wang et al., 2002.07376, equation 8 negated)."""
    products = hessian_times_gradient(weights, statistics, "grasp")
    return {name: weight.detach() * products[name] for name, weight in weights.items()}


@element_criterion("synflow", batches=1, steps=100)
def synflow(weights: Weights, statistics: Statistics, scope: str) -> Mapping[str, Tensor]:  # noqa: ARG001
    """|w·∂R/∂w| with R the sum of outputs of the network of absolute weights on an input of ones.

    Tanaka et al., 2006.05467, section 6: without data (only the images' shape is taken), in float64, in many
    rounds: then no layer vanishes before the others.
    """
    inputs, _ = next(statistics.batches("synflow"))
    network = copy.deepcopy(statistics.model).double()
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor.abs_()
    own = dict(network.named_parameters(remove_duplicate=False))
    chosen = [own[name].requires_grad_() for name in weights]
    with quiet(network), torch.enable_grad():
        ones = tree_map_only(Tensor, lambda x: torch.ones_like(x, dtype=torch.float64), rows(inputs, 0, 1))
        flow = run(network, ones).sum()
        gradients = torch.autograd.grad(flow, chosen, materialize_grads=True)
    return {
        name: (tensor.detach() * gradient).abs()
        for name, tensor, gradient in zip(weights, chosen, gradients, strict=True)
    }


@element_criterion("ecs")
def ecs(weights: Weights, statistics: Statistics, scope: str) -> Mapping[str, Tensor]:
    """Kept if |w| or |g| is high; g is the mean gradient over all of the data.

    Of the weights with `|w| ≥ t_w or |g| ≥ t_g`, both thresholds at one percentile, any fraction between one
    and two times that percentile may be left. The score is therefore the better of a weight's two ranks, by
    |w| and by |g|: its k best are that union at the percentile where it has k members. Where a rank by |w| and
    the same rank by |g| compete for the last place, |w| wins. Thresholds are those of all weights together for
    global scope, of each layer for local.
    """
    gradients = mean_gradients(weights, statistics, "ecs")
    pools = [list(weights)] if scope == "global" else [[name] for name in weights]
    scores: dict[str, Tensor] = {}
    for pool in pools:
        sizes = [weights[name].numel() for name in pool]
        by_weight = _ranks(torch.cat([weights[name].detach().abs().reshape(-1) for name in pool]))
        by_gradient = _ranks(torch.cat([gradients[name].abs().reshape(-1) for name in pool]))
        best = -torch.minimum(by_weight.double(), by_gradient.double() + 0.5)
        for name, part in zip(pool, best.split(sizes), strict=True):
            scores[name] = part.reshape(weights[name].shape)
    return scores


@element_criterion("movement")
def movement(weights: Weights, statistics: Statistics, scope: str) -> Mapping[str, Tensor]:  # noqa: ARG001
    """−w·g: whether training moves the weight away from zero (Sanh et al., 2005.07683, equation 3).

    Over batches the weights stay as they are; in training (`prune.schedules`) the products are summed step by step.
    """
    gradients = mean_gradients(weights, statistics, "movement")
    return {name: -(weight.detach() * gradients[name]) for name, weight in weights.items()}


def _ranks(values: Tensor) -> Tensor:
    """0 for the largest value, 1 for the next …; equal values in their order."""
    if not bool(torch.isfinite(values).all()):
        return torch.full_like(values, torch.nan, dtype=torch.float64)
    order = torch.argsort(values, descending=True, stable=True)
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
