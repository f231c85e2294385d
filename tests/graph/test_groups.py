"""Every hand-written structure has exactly the channel groups that were worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pintsize as ps
from structures import CASES, Case


def found(groups: list[ps.graph.ChannelGroup]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for group in groups:
        name = group.name
        while name in sizes:
            name += "'"
        sizes[name] = group.size
    return sizes


OPEN = {"NonLocal": "queries and keys of plain products are taken for a head, which is kept whole"}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, id=name, marks=[pytest.mark.xfail(reason=OPEN[name], strict=True)] if name in OPEN else []
        )
        for name, case in CASES.items()
    ],
)
def test_groups_are_those_worked_out_by_hand(case: Case) -> None:
    torch.manual_seed(0)
    model = case.make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert found(ps.channel_groups(model, case.example())) == case.groups
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training


def test_members_of_a_group_take_the_same_channels_everywhere() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    (group,) = ps.channel_groups(network, torch.randn(1, 3, 2, 2))
    removed = group.removed([1, 3])
    assert removed == {
        "0.weight": {0: [1, 3]},
        "0.bias": {0: [1, 3]},
        "1.weight": {0: [1, 3]},
        "1.bias": {0: [1, 3]},
        "1.running_mean": {0: [1, 3]},
        "1.running_var": {0: [1, 3]},
        "3.weight": {1: [4, 5, 6, 7, 12, 13, 14, 15]},
    }
    assert {m.parameter for m in group.members if m.produces} == {"0.weight"}
    assert group.layers == ("0",)


def test_groups_come_in_the_order_of_their_parameters() -> None:
    groups = ps.channel_groups(ps.models.create("resnet20"), torch.randn(1, 3, 32, 32))
    order = [name for name, _ in ps.models.create("resnet20").named_parameters()]
    first = [min(order.index(m.parameter) for m in g.members if m.produces) for g in groups]
    assert first == sorted(first)


def test_the_output_layer_and_the_input_keep_their_channels() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5))
    (group,) = ps.channel_groups(network, torch.randn(2, 4))
    assert {(m.parameter, m.dim) for m in group.members} == {("0.weight", 0), ("0.bias", 0), ("2.weight", 1)}


def test_a_batch_of_one_and_of_many_give_the_same_groups() -> None:
    network = ps.models.create("shufflenetv2-x0.5", stem="small")
    one, many = (found(ps.channel_groups(network, torch.randn(n, 3, 32, 32))) for n in (1, 3))
    assert one == many
