"""A pruned network computes what the dense one with zeroed channels computes, on inputs it was not pruned with.

The reference (`benchmarks/structures/reference.py`) knows nothing of the library's graph.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

import pintsize as ps
from pintsize.storage.record import record
from structures import CASES, reference

TOLERANCE = 1e-4
NETWORKS = ps.models.list()


def made(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return reference.randomise(CASES[name].make(), seed)


def check(dense: nn.Module, model: nn.Module, plan: ps.PruningPlan, example: Any) -> None:
    """The pruned model is right, its attributes fit, and it trains."""
    expected = reference.masked(dense, example, plan.removed)
    assert reference.error(expected, reference.outputs(model, example)) < TOLERANCE
    assert plan.error < TOLERANCE
    assert reference.inconsistent(model) == []
    sizes = {n: tuple(p.shape) for n, p in dense.named_parameters()}
    for name, parameter in model.named_parameters():
        gone = plan.removed.get(name, {})
        assert tuple(parameter.shape) == tuple(s - len(gone.get(d, ())) for d, s in enumerate(sizes[name]))
    trains(model, example)


def trains(model: nn.Module, example: Any) -> None:
    model.train()
    model.zero_grad()
    result = model(*(example if isinstance(example, tuple) else (example,)))
    tensors: Iterable[Tensor] = (t for t in tree_flatten(result)[0] if isinstance(t, Tensor))
    sum(t.square().sum() for t in tensors).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize(
    "options", [{"ratio": 0.5, "scope": "local"}, {"ratio": 0.3}], ids=["local", "global"]
)
@pytest.mark.parametrize("name", CASES)
def test_structures(name: str, options: dict[str, Any]) -> None:
    model = made(name)
    dense = copy.deepcopy(model)
    plan = ps.prune(model, CASES[name].example(), fold_constants=False, **options)
    assert plan.removed
    check(dense, model, plan, CASES[name].example())
    if options.get("scope") == "local":
        for group in ps.channel_groups(dense, CASES[name].example()):
            first = next(m for m in group.members if m.produces)
            gone = set(plan.removed[first.parameter][first.dim])
            assert sum(set(map(int, unit)) <= gone for unit in first.indices) == group.size // 2


@pytest.mark.parametrize("name", NETWORKS)
def test_named_networks(name: str) -> None:
    torch.manual_seed(0)
    big = name.startswith(("alexnet", "vgg"))
    model = ps.models.create(
        name, stem="imagenet" if big else "small", in_channels=1 if name == "resnet20" else 3
    )
    reference.randomise(model)
    if big:  # the classifier of 4096 wide layers costs seconds; narrower ones have the same structure
        ps.prune(
            model, torch.randn(1, 3, 64, 64), ratios={"classifier": 0.95}, scope="local", importance="random"
        )
    dense = copy.deepcopy(model)
    channels, size = next(model.parameters()).shape[1], 64 if big else 32
    plan = ps.prune(
        model, torch.randn(1, channels, size, size), ratio=0.5, scope="local", fold_constants=False
    )
    assert plan.after["channels"] <= 0.52 * plan.before["channels"]
    check(dense, model, plan, torch.randn(2, channels, size, size))


# Structures whose units are many enough that any ratio removes something.
SMALL = sorted(set(CASES) - {"Swin", "MaxViT"})


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(SMALL),
    ratio=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**16),
    scope=st.sampled_from(["local", "global", "isomorphic"]),
    round_to=st.sampled_from([1, 1, 2, 4, "auto"]),
    min_channels=st.integers(1, 3),
    importance=st.sampled_from(["l1", "l2", "lamp", "random"]),
    ignored=st.integers(0, 5),
    steps=st.integers(1, 3),
)
def test_any_request(
    name: str, ratio: float, seed: int, scope: str, round_to: Any, min_channels: int,
    importance: str, ignored: int, steps: int,
) -> None:  # fmt: skip
    model = made(name, seed)
    dense = copy.deepcopy(model)
    groups = ps.channel_groups(model, CASES[name].example())
    ignore = [groups[ignored % len(groups)].name] if ignored and len(groups) > 1 else []
    plan = ps.prune(
        model, CASES[name].example(), ratio=ratio, scope=scope, round_to=round_to, min_channels=min_channels,
        importance=importance, ignore=ignore, seed=seed, steps=steps, fold_constants=False,
    )  # fmt: skip
    check(dense, model, plan, CASES[name].example())
    for group in groups:
        first = next(m for m in group.members if m.produces)
        size = first.indices.numel()
        left = size - len(
            set(first.indices.reshape(-1).tolist())
            & set(plan.removed.get(first.parameter, {}).get(first.dim, []))
        )
        assert left >= min(size, max(min_channels, 1))
        if round_to != "auto" and left != size:
            assert left % round_to == 0
        if set(group.layers) & set(ignore):
            assert left == size


def test_pruning_a_pruned_network_again_and_again() -> None:
    model = made("UNet")
    dense = copy.deepcopy(model)
    whole: ps.PruningPlan | None = None
    for seed in range(4):
        plan = ps.prune(
            model,
            CASES["UNet"].example(),
            ratio=0.25,
            scope="local",
            importance="random",
            seed=seed,
            fold_constants=False,
        )
        whole = plan if whole is None else whole.then(plan)
    assert whole is not None
    check(dense, model, whole, CASES["UNet"].example())


def test_rounds_with_training_between_them() -> None:
    model = made("Residual")
    sizes, seen = [], []

    def between(model: nn.Module, step: int) -> None:
        seen.append(step)
        sizes.append(model.a.conv.out_channels)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.01)

    plan = ps.prune(model, CASES["Residual"].example(), ratio=0.75, scope="local", steps=3, between=between)
    assert seen == [0, 1, 2]
    assert sizes == [9, 6, 3]
    assert plan.before["channels"] == 20
    assert plan.after["channels"] == 5
    assert [step.kind for step in record(model)] == ["prune"] * 3
