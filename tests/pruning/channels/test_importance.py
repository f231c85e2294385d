"""Criteria on two linear layers without bias, with numbers worked out by hand.

`first` has rows (1, −2), (3, 0), (0, ½); `second` reads its three units with weights 2, −1, 4.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pintsize as ps
from pintsize import errors
from pintsize.pruning import Importance, Statistics, criterion
from pintsize.pruning.channels.importance import _CRITERIA, names

FIRST = [[1.0, -2.0], [3.0, 0.0], [0.0, 0.5]]
SECOND = [[2.0, -1.0, 4.0]]
ONES = [(torch.ones(1, 2), torch.zeros(1))]


def network(*between: nn.Module) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 3, bias=False), *between, nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(FIRST))
        model[-1].weight.copy_(torch.tensor(SECOND))
    return model


def scores(name: str, model: nn.Module, **options: object) -> list[float]:
    groups = ps.channel_groups(model, torch.ones(2, 2))
    importance = Importance(name, options.pop("reduction", "mean"), options.pop("normalize", "none"))
    (found,) = importance.scores(groups, Statistics(model, **options))
    return found.tolist()


def linear_loss(outputs: Tensor, _: Tensor) -> Tensor:
    return outputs.sum()


def squared_loss(outputs: Tensor, _: Tensor) -> Tensor:
    return 0.5 * outputs.square().sum()


def mean(a: list[float], b: list[float]) -> list[float]:
    return [(x + y) / 2 for x, y in zip(a, b, strict=True)]


def test_l1_adds_absolute_weights() -> None:
    assert scores("l1", network()) == pytest.approx(mean([3, 3, 0.5], [2, 1, 4]))


def test_l2_is_the_length() -> None:
    assert scores("l2", network()) == pytest.approx(mean([math.sqrt(5), 3, 0.5], [2, 1, 4]))


def test_lamp_divides_by_all_that_is_not_smaller() -> None:
    # squares 5, 9, ¼ and 4, 1, 16
    expected = mean([5 / 14, 1, 0.25 / 14.25], [4 / 20, 1 / 21, 1])
    assert scores("lamp", network()) == pytest.approx(expected)


def test_fpgm_adds_distances_to_the_other_filters() -> None:
    near, far, last = math.sqrt(8), math.sqrt(7.25), math.sqrt(9.25)
    assert scores("fpgm", network()) == pytest.approx([near + far, near + last, far + last], rel=1e-4)


def test_batch_norm_scale() -> None:
    model = network(nn.BatchNorm1d(3))
    model[1].weight.data = torch.tensor([-0.5, 2.0, 0.1])
    assert scores("bn-scale", model) == pytest.approx([0.5, 2.0, 0.1])


def test_taylor_squares_the_first_order_change() -> None:
    # out = Σ vᵢ·hᵢ with h = (−1, 3, ½): g·w of unit i is vᵢ·hᵢ = −2, −3, 2 in both layers
    assert scores("taylor", network(), data=ONES, loss=linear_loss) == pytest.approx([4, 9, 4])


def test_second_order_taylor_adds_half_the_squared_gradient() -> None:
    # ½·Σ g²·w²: ½·(4·5, 1·9, 16·¼) in the first layer and ½·h²·v² = ½·(4, 9, 4) in the second
    first = [abs(10 + 2), abs(4.5 + 3), abs(2 - 2)]
    second = [abs(2 + 2), abs(4.5 + 3), abs(2 - 2)]
    found = scores("taylor2", network(), data=ONES, loss=linear_loss)
    assert found == pytest.approx(mean(first, second), abs=1e-5)


def test_the_diagonal_of_the_hessian() -> None:
    # ½·out²: H of wᵢⱼ is vᵢ²·xⱼ² = 4, 1, 16; H of vᵢ is hᵢ² = 1, 9, ¼; the estimate has noise
    expected = mean([0.5 * 4 * 5, 0.5 * 1 * 9, 0.5 * 16 * 0.25], [0.5 * 4 * 1, 0.5 * 1 * 9, 0.5 * 16 * 0.25])
    found = scores("hessian", network(), data=ONES * 400, loss=squared_loss)
    assert found == pytest.approx(expected, rel=0.2)


def test_activations_are_those_the_next_layer_reads() -> None:
    data = [
        (torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.zeros(2)),
        (torch.tensor([[0.0, 2.0], [0.0, 0.0]]), torch.zeros(2)),
    ]
    # after ReLU: (0, 3, ½), (1, 3, 0), (0, 0, 1), (0, 0, 0)
    model = network(nn.ReLU())
    assert scores("activation", model, data=data) == pytest.approx([0.25, 1.5, 0.375])
    assert scores("apoz", model, data=data) == pytest.approx([0.25, 0.5, 0.5])


def test_batches_of_unequal_size_count_by_image() -> None:
    data = [
        (torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 2.0]]), torch.zeros(3)),
        (torch.tensor([[0.0, 0.0]]), torch.zeros(1)),
    ]
    assert scores("activation", network(nn.ReLU()), data=data) == pytest.approx([0.25, 1.5, 0.375])


def test_random_depends_on_the_seed_alone() -> None:
    one, again, other = (scores("random", network(), seed=seed) for seed in (1, 1, 2))
    assert one == again != other
    assert all(0 <= score < 1 for score in one)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("mean", [2.5, 2, 2.25]),
        ("sum", [5, 4, 4.5]),
        ("max", [3, 3, 4]),
        ("l2", [math.sqrt(13), math.sqrt(10), math.sqrt(16.25)]),
    ],
)
def test_reductions_over_the_members_of_a_group(reduction: str, expected: list[float]) -> None:
    assert scores("l1", network(), reduction=reduction) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [
        ("none", [2.5, 2, 2.25]),
        ("mean", [10 / 9, 8 / 9, 1]),
        ("max", [1, 0.8, 0.9]),
        ("sum", [10 / 27, 8 / 27, 1 / 3]),
        ("standard", [math.sqrt(1.5), -math.sqrt(1.5), 0]),
    ],
)
def test_normalisations_within_a_group(normalize: str, expected: list[float]) -> None:
    assert scores("l1", network(), normalize=normalize) == pytest.approx(expected, abs=1e-9)


def test_the_lowest_score_goes() -> None:
    model = network()
    plan = ps.prune(model, torch.ones(2, 2), ratio=0.4, importance="l1")
    assert plan.removed == {"0.weight": {0: [1]}, "1.weight": {1: [1]}}
    plan = ps.prune(network(), torch.ones(2, 2), ratio=0.4, importance=Importance("l1", "max"))
    assert plan.removed["0.weight"] == {0: [0]}  # a tie of units 0 and 1: the first


def test_gradients_that_a_parameter_holds_are_kept() -> None:
    model = network(nn.ReLU(), nn.Dropout(0.5))
    model(torch.ones(2, 2)).sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    model[1].eval()
    for name in ("taylor", "taylor2", "hessian", "activation", "apoz"):
        scores(name, model, data=ONES, loss=linear_loss)
    assert all(torch.equal(a, p.grad) for a, p in zip(before, model.parameters(), strict=True))
    assert (model.training, model[1].training) == (True, False)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_cross_entropy_is_the_loss_unless_another_is_given() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4))
    data = [(torch.randn(5, 2), torch.randint(0, 4, (5,)))]
    assert scores("taylor", model, data=data) == scores("taylor", model, data=data, loss=F.cross_entropy)


@pytest.mark.parametrize("name", names())
def test_every_criterion_prunes_a_network_with_residuals_and_depthwise_layers(name: str) -> None:
    torch.manual_seed(0)
    model = ps.models.create("mobilenetv2", stem="small", num_classes=4).eval()
    data = [(torch.randn(2, 3, 16, 16), torch.tensor([0, 3]))]
    plan = ps.prune(model, data[0][0], ratio=0.2, scope="local", importance=name, data=data)
    assert plan.after["channels"] < 0.85 * plan.before["channels"]
    assert plan.error < 1e-4


def test_a_users_criterion() -> None:
    @criterion("position")
    def position(member: ps.graph.Member, _: Statistics) -> Tensor | None:
        return -torch.arange(member.indices.shape[0]).float() if member.produces else None

    try:
        plan = ps.prune(network(), torch.ones(2, 2), ratio=0.4, importance="position")
        assert plan.removed["0.weight"] == {0: [2]}
    finally:
        del _CRITERIA["position"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("l9",), "importance 'l9'"),
        (("l1", "median"), "reduction 'median'"),
        (("l1", "mean", "softmax"), "normalize 'softmax'"),
    ],
)
def test_unknown_names_are_refused_with_the_choices(fields: tuple[str, ...], message: str) -> None:
    with pytest.raises(errors.InputError, match=message):
        Importance(*fields)
