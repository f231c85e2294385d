"""Ops that the library does not know: refused by name, kept out by `ignore`, or taught by the user."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import pintsize as ps
from pintsize.graph import ops


@torch.library.custom_op("pintsize_tests::swish", mutates_args=())
def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return swish(x)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), Swish(), nn.Conv2d(6, 4, 3)
    ).eval()


@pytest.fixture
def taught() -> Iterator[None]:
    @ps.graph.rule(torch.ops.pintsize_tests.swish)
    def rule(op: ps.graph.Op, labels: ps.graph.Labels) -> None:
        labels.set(op.outputs[0], labels.of(op.inputs[0]))

    yield
    del ops._RULES[torch.ops.pintsize_tests.swish]


EXAMPLE = torch.randn(1, 3, 9, 9)


def test_an_unknown_op_is_refused_by_name_and_module() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ps.errors.UnsupportedOp) as error:
        ps.prune(model, EXAMPLE, ratio=0.5)
    for word in ("module '3'", "pintsize_tests.swish", "has no rule", "@pintsize.graph.rule", "ignore="):
        assert word in str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("ignore", ["3", "2", ("2", "3")])
def test_channels_that_an_unknown_op_touches_can_be_kept(ignore: str | tuple[str, ...]) -> None:
    """The module of the op, or the layer whose channels it touches."""
    model = network()
    plan = ps.prune(model, EXAMPLE, ratio=0.5, scope="local", ignore=ignore)
    assert [tuple(model[k].weight.shape[:2]) for k in (0, 2, 4)] == [(4, 3), (6, 4), (4, 6)]
    assert plan.error < 1e-5


def test_other_groups_are_listed() -> None:
    assert [group.name for group in ps.channel_groups(network(), EXAMPLE)] == ["0"]


@pytest.mark.xfail(
    reason="what an unknown op gives has no labels, so it is not seen to be the output", strict=True
)
def test_an_unknown_op_on_the_output_stands_in_nobodys_way() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), Swish()).eval()
    ps.prune(model, EXAMPLE, ratio=0.5)
    assert model[0].out_channels == 4


@pytest.mark.usefixtures("taught")
def test_a_rule_makes_it_known() -> None:
    model = network()
    assert ps.prune(model, EXAMPLE, ratio=0.5, scope="local").error < 1e-5
    assert [tuple(model[k].weight.shape[:2]) for k in (0, 2, 4)] == [(4, 3), (3, 4), (4, 3)]
