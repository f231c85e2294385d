from __future__ import annotations

import copy
import dataclasses
import inspect

import pytest
import torch
from torch import nn

from pintsize.errors import InputError
from pintsize.training import Options, optimizers, train
from pintsize.training.options import OPTIMIZERS


def options(**changes):
    defaults = inspect.signature(train).parameters
    return Options(
        **{field.name: defaults[field.name].default for field in dataclasses.fields(Options)} | changes
    )


def net():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.Flatten(), nn.LayerNorm((4, 4)), nn.Linear(4, 2)
    )


def groups(optimizer):
    return {group["weight_decay"]: group["params"] for group in optimizer.param_groups}


def test_norms_and_biases_are_not_decayed():
    model = net()
    found = groups(optimizers.build(model, options(weight_decay=0.5)))
    assert [id(p) for p in found[0.5]] == [id(model[0].weight), id(model[5].weight)]
    assert (
        len(found[0.0]) == 7
    )  # conv bias; norm weight and bias; PReLU; layer norm's two, of 2 dims; linear bias


def test_a_tied_weight_is_stepped_once():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    assert sum(len(group["params"]) for group in optimizers.build(model, options()).param_groups) == 1


def test_what_others_step_is_left_alone():
    model = net()
    optimizer = optimizers.build(model, options(), others=[model[0].weight])
    assert all(p is not model[0].weight for group in optimizer.param_groups for p in group["params"])


def test_nothing_to_train():
    with pytest.raises(InputError, match="no trainable parameters"):
        optimizers.build(net().requires_grad_(False), options())


@pytest.mark.parametrize(
    ("changes", "plain"),
    [
        (
            {"optimizer": "sgd", "nesterov": True},
            lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True, foreach=False),
        ),
        ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, 0.1, foreach=False)),
        ({"optimizer": "adamw"}, lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0, foreach=False)),
    ],
)
def test_the_fused_step_is_the_plain_one(changes, plain):
    """Also where weights are channels-last: the fused kernels walk through memory, not through indices."""
    torch.manual_seed(0)
    ours = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    theirs = copy.deepcopy(ours).to(memory_format=torch.contiguous_format)
    steps = optimizers.build(ours, options(lr=0.1, weight_decay=0, **changes)), plain(theirs.parameters())
    for _ in range(3):
        images = torch.randn(2, 4, 5, 5)
        for model, optimizer in zip((ours, theirs), steps, strict=True):
            optimizer.zero_grad()
            model(images).square().mean().backward()
            optimizer.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-5)
    assert torch.allclose(ours.bias, theirs.bias, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_that_may_be_named_is_built(name):
    built = optimizers.build(net(), options(optimizer=name))
    assert type(built).__name__.lower() == name
