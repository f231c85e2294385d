"""Exact masks on examples worked by hand, for every criterion, pattern and scope."""

import math

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import InputError
from pintsize.pruning import Importance, Statistics, masks_of, remove_masks, sparsify
from pintsize.pruning.weights.criteria import element_scores
from pintsize.pruning.weights.selection import keep_top

W = [[1.0, -2.0], [3.0, 0.5]]


def linear(weight=W) -> nn.Linear:
    weight = torch.tensor(weight)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return layer


def one(weight=W) -> nn.Module:
    return nn.Sequential(linear(weight))


# y = W x = (-3, 4) for x = (1, 2); loss ½|y|², so g = y xᵀ = [[-3, -6], [4, 8]] and H·g = 5 g
DATA = [(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2))]


def half_square(output, target):
    return 0.5 * (output - target).square().sum()


@pytest.mark.parametrize(
    ("importance", "scores", "kept"),
    [
        ("magnitude", [[1, 2], [3, 0.5]], [[0, 1], [1, 0]]),
        ("snip", [[3 / 31, 12 / 31], [12 / 31, 4 / 31]], [[0, 1], [1, 0]]),
        ("movement", [[3, -12], [-12, -4]], [[1, 0], [0, 1]]),
        ("grasp", [[-15, 60], [60, 20]], [[0, 1], [1, 0]]),
        ("ecs", [[-2, -1], [0, -0.5]], [[0, 0], [1, 1]]),
        ("synflow", [[1, 2], [3, 0.5]], [[0, 1], [1, 0]]),
    ],
)
def test_scores_and_masks_by_hand(importance, scores, kept):
    model = one()
    found = element_scores(
        importance, {"0.weight": model[0].weight}, Statistics(model, DATA, 0, half_square), "global"
    )
    assert torch.allclose(found["0.weight"].double(), torch.tensor(scores, dtype=torch.float64))
    result = sparsify(model, density=0.5, importance=importance, data=DATA, loss=half_square)
    assert torch.equal(result.masks["0.weight"], torch.tensor(kept).bool())
    assert torch.equal(model[0].weight, torch.tensor(W) * torch.tensor(kept))


@pytest.mark.parametrize(("density", "kept"), [(0.25, [2]), (0.5, [2, 3]), (0.75, [1, 2, 3])])
def test_ecs_keeps_the_union_of_both_rankings_at_exactly_the_density_asked_for(density, kept):
    mask = sparsify(one(), density=density, importance="ecs", data=DATA, loss=half_square).masks["0.weight"]
    assert mask.reshape(-1).nonzero().reshape(-1).tolist() == kept


def test_ecs_is_a_union_of_thresholds_at_one_percentile():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30, bias=False))
    data = [(torch.randn(8, 20), torch.randn(8, 30))]
    statistics = Statistics(model, data, 0, half_square)
    from pintsize.pruning.channels.loss_gradients import mean_gradients

    g = mean_gradients({"0.weight": model[0].weight}, statistics, "")["0.weight"].abs().reshape(-1)
    w = model[0].weight.detach().abs().reshape(-1).clone()
    mask = sparsify(model, density=0.2, importance="ecs", data=data, loss=half_square).masks["0.weight"]
    assert int(mask.sum()) == 120
    unions = [keep_top(w, p) | keep_top(g, p) for p in range(601)] + [
        keep_top(w, p + 1) | keep_top(g, p) for p in range(600)
    ]  # the second: the last place goes to |w|
    assert any(torch.equal(union, mask.reshape(-1)) for union in unions)


def test_synflow_by_hand_through_two_layers_and_signs():
    # R = |W2||W1|1: scores |w2_i||w1_ij| = [[2, 4], [3, .5]] and |w2_i|·Σ_j|w1_ij| = [6, 3.5]
    model = nn.Sequential(linear(), linear([[2.0, -1.0]]))
    found = sparsify(model, density=4 / 6, importance="synflow", example=torch.zeros(1, 2), steps=1).masks
    assert found["0.weight"].tolist() == [[False, True], [True, False]]
    assert found["1.weight"].tolist() == [[True, True]]


def test_synflow_keeps_a_path_where_one_round_would_cut_all():
    model = nn.Sequential(linear([[1.0, 1.0], [1.0, 1.0]]), linear([[0.1, 0.1]]), linear([[5.0], [5.0]]))
    found = sparsify(model, density=3 / 8, importance="synflow", example=torch.zeros(1, 2)).masks
    flow = found["2.weight"].float() @ found["1.weight"].float() @ found["0.weight"].float()
    assert flow.any()


def test_gradients_are_means_over_all_batches():
    # a second batch x = (1, 0): y = (1, 3), g = [[1, 0], [3, 0]]; the mean is [[-1, -3], [3.5, 4]]
    data = [*DATA, (torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))]
    model = one()
    found = element_scores(
        "snip", {"0.weight": model[0].weight}, Statistics(model, data, 0, half_square), "global"
    )["0.weight"]
    assert torch.allclose(found, torch.tensor([[1, 6], [10.5, 2]]) / 19.5)


def test_batch_norm_statistics_and_modes_are_left_as_they_were():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "1." in name}
    data = [(torch.randn(8, 4), torch.randint(0, 4, (8,)))]
    sparsify(model, density=0.5, importance="snip", data=data)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(module.training for module in model.modules())
    assert model[0].weight.grad is None


def test_global_and_local_scope_and_least_density():
    def model():
        return nn.Sequential(linear([[4.0, 3.0], [2.0, 1.0]]), linear([[0.4, 0.3], [0.2, 0.1]]))

    def kept(**options):
        return [
            [*m.reshape(-1).int().tolist()] for m in sparsify(model(), density=0.5, **options).masks.values()
        ]

    assert kept(scope="local") == [[1, 1, 0, 0], [1, 1, 0, 0]]
    assert kept(min_density=0.25) == [[1, 1, 1, 0], [1, 0, 0, 0]]
    with pytest.raises(InputError, match=r"1\.weight.* would lose all"):
        kept()
    with pytest.raises(InputError, match="min_density"):
        kept(min_density=0.6)


def test_ties_go_to_the_first_weights():
    assert keep_top(torch.tensor([1.0, 2.0, 1.0, 1.0]), 2).tolist() == [True, True, False, False]
    model = one([[1.0] * 8])
    assert sparsify(model, density=3 / 8).masks["0.weight"].tolist() == [[True] * 3 + [False] * 5]


def test_two_of_four_by_hand():
    model = nn.Sequential(linear([[1.0, -4.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0]]), linear([[1.0], [2.0]]))
    result = sparsify(model, pattern="2:4")
    assert result.masks["0.weight"].int().tolist() == [[0, 1, 0, 1, 1, 1, 0, 0]]
    assert result.left_alone == ("1.weight",)
    assert result.density == 0.5


def test_two_of_four_runs_over_input_channels_of_convolutions():
    layer = nn.Conv2d(4, 1, (1, 2), bias=False)
    layer.weight.data = torch.tensor([[[[1.0, 8.0]], [[2.0, 7.0]], [[3.0, 6.0]], [[4.0, 5.0]]]])
    transposed = nn.ConvTranspose2d(4, 1, (1, 2), bias=False)
    transposed.weight.data = layer.weight.data.reshape(4, 1, 1, 2).clone()
    for model in (nn.Sequential(layer), nn.Sequential(transposed)):
        mask = sparsify(model, pattern="2:4").masks["0.weight"].reshape(4, 2)
        assert mask.int().tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]


def test_blocks_by_hand():
    model = one([[1.0, 9.0], [1.0, 0.0], [5.0, 2.0], [5.0, 2.0], [3.0, 7.0]])
    # 2×1 blocks: means 1, 4.5 | 5, 2 | the last row alone: 3, 7
    result = sparsify(model, density=0.4, pattern="2x1")
    assert result.masks["0.weight"].int().tolist() == [[0, 0], [0, 0], [1, 0], [1, 0], [0, 1]]
    assert result.density == 0.3  # 3 or 5 of 10 weights can be kept, equally near to 4


def test_masks_only_shrink():
    model = one([[4.0, 3.0, 2.0, 1.0]])
    sparsify(model, density=0.75)
    model[0].weight.data = torch.tensor([[1.0, 2.0, 3.0, 100.0]])
    assert sparsify(model, density=0.5).masks["0.weight"].tolist() == [[False, True, True, False]]
    with pytest.raises(InputError, match="only 2 of 4"):
        sparsify(model, density=0.75)
    remove_masks(model)
    assert not masks_of(model)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"density": 0}, "nothing would be left"),
        ({"density": 1}, "nothing would be removed"),
        ({"density": None}, "no fraction"),
        ({"density": math.nan}, "no fraction"),
        ({"density": 0.5, "pattern": "2:4"}, "leave out density"),
        ({"pattern": "4:4"}, "none or all"),
        ({"pattern": "diagonal"}, "no such pattern"),
        ({"density": 0.5, "scope": "globl"}, "global"),
        ({"density": 0.5, "importance": "snipp"}, "snip"),
        ({"density": 0.5, "importance": "snip"}, "needs data"),
        ({"density": 0.5, "importance": "snip", "data": []}, "empty"),
        ({"density": 0.5, "ignore": "1"}, "matches no"),
        ({"density": 0.5, "ignore": "*"}, "no convolution or linear layer is left"),
        ({"density": 0.5, "steps": 0}, "rounds"),
        ({"pattern": "2:4"}, "no layer has"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(options, match):
    model = one()
    with pytest.raises(InputError, match=match):
        sparsify(model, **options)
    assert not masks_of(model)
    assert torch.equal(model[0].weight, torch.tensor(W))


def test_nan_gradients_are_named():
    data = [(torch.tensor([[1.0, math.nan]]), torch.zeros(1, 2))]
    for importance in ("snip", "grasp", "ecs", "movement"):
        with pytest.raises(InputError, match=r"0\.weight.*NaN"):
            sparsify(one(), density=0.5, importance=importance, data=data, loss=half_square)


@pytest.mark.parametrize(
    ("importance", "scores"),
    [("magnitude", [3, 3.5]), ("snip", [15 / 31, 16 / 31]), ("grasp", [45, 80]), ("movement", [-9, -16])],
)
def test_criteria_summed_per_filter(importance, scores):
    model = nn.Sequential(linear(), linear([[1.0, 1.0], [1.0, 1.0]]))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(2))  # so the gradient of the first layer is as above
    groups = ps.channel_groups(model, torch.zeros(1, 2))
    statistics = Statistics(model, DATA, 0, half_square)
    found = Importance(importance, "sum", "none").scores(groups, statistics)[0]
    first = element_scores(importance, dict(model.named_parameters()), statistics, "global")
    expected = first["0.weight"].double().sum(1) + first["1.weight"].double().sum(0)
    assert torch.allclose(found, expected)
    if importance in {"magnitude", "movement"}:  # the others look at both layers at once
        assert torch.allclose(first["0.weight"].double().sum(1), torch.tensor(scores).double())


@pytest.mark.parametrize("importance", ["ecs", "synflow"])
def test_every_criterion_ranks_channels(importance):
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    )
    data = [(torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]))]
    ps.prune(model, data[0][0], ratio=0.5, importance=importance, data=data)
    assert model[0].weight.shape[0] == 3


QUICK = {"resnet-demo", "resnet20", "mobilenetv2", "shufflenetv2-x0.5"}


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ps.models.list()]
)
def test_density_is_exact_on_every_network(name):
    torch.manual_seed(0)
    model = ps.models.create(name, stem="small")
    if sum(parameter.numel() for parameter in model.parameters()) > 5e6:  # a quarter of its channels will do
        ps.prune(model, torch.rand(1, 3, 64, 64), ratio=0.75, importance="random")
    for density in (0.2, 0.1, 0.05):
        result = sparsify(model, density=density, min_density=1e-4)
        total = sum(layer.total for layer in result.layers)
        kept = sum(layer.kept for layer in result.layers)
        assert kept == math.floor(density * total + 0.5)
        parameters = dict(model.named_parameters())
        assert sum(int((parameters[n] != 0).sum()) for n in result.masks) <= kept
