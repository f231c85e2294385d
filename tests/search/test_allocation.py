"""The path of allocations: costs by hand, and what goes first."""

import pytest
import torch
from torch import nn

from pintsize.deploy.layer_latency import LayerTimes
from pintsize.graph import analyse
from pintsize.search.allocation import CostModel, Space, first_within
from pintsize.search.damage import Damage, convex, damage_of, levels_of
from pintsize.search.latency_table import layers_of, weight_layers

EXAMPLE = torch.zeros(2, 1, 8, 8)
LEVELS = {"0": [0, 2], "2": [0, 4]}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    ).eval()  # fmt: skip


def space(model, minimize, groups, layers, widths=(None, 8, 4), times=None):
    graph = analyse(model, EXAMPLE)
    names = weight_layers(graph)
    cost = CostModel(graph, layers_of(model, graph, EXAMPLE, names), minimize, times or {})
    return Space(graph.groups, LEVELS, list(widths), Damage(groups, layers), cost)


GROUPS = {"0": {0: 0.0, 2: 0.5}, "2": {0: 0.0, 4: 0.01}}
LAYERS = {
    "0": {None: 0.0, 8: 1e-4, 4: 0.4},
    "2": {None: 0.0, 8: 1e-4, 4: 0.01},
    "6": {None: 0.0, 8: 1e-4, 4: 0.3},
}


def test_bytes_and_macs_by_hand(model):
    cost = space(model, "bytes", GROUPS, LAYERS).cost
    whole = 4 * ((4 * 9 + 4) + (8 * 4 * 9 + 8) + (80 + 10))
    assert cost({}, {}) == whole
    # layer "2" with 4 bits: half a byte for each weight, scale and bias for each channel
    assert cost({}, {"2": 4}) == whole - 4 * 288 + 144 + 8 * 8
    assert cost({"2": 4}, {}) == 4 * (40 + (4 * 4 * 9 + 4) + (40 + 10))
    macs = space(model, "macs", GROUPS, LAYERS).cost
    assert macs({}, {}) == 64 * 36 + 64 * 288 + 80
    assert macs({"0": 2}, {"0": 8}) == 64 * 18 + 64 * 144 + 80


def test_latency_is_the_sum_of_the_layers_in_the_table(model):
    times = {
        "0": {(1, 2): LayerTimes(2.0, 1.0), (1, 4): LayerTimes(4.0, 2.0)},
        "2": {(i, o): LayerTimes(i * o, i * o / 2) for i in (2, 4) for o in (4, 8)},
        "6": {(n, 10): LayerTimes(1.0, 3.0) for n in (4, 8)},
    }
    cost = space(model, "latency", GROUPS, LAYERS, times=times).cost
    assert cost({}, {}) == 4 + 32 + 1
    assert cost({"0": 2}, {"0": None}) == 2 + 16 + 1
    assert cost({"0": 2}, {"2": 8}) == 2 + 8 + 1
    assert cost({}, {"6": 8}) == pytest.approx(
        4 + 32 + 0.9
    )  # a lone integer layer has conversions in its time


def test_the_path_takes_what_costs_least_damage_first(model):
    found = space(model, "bytes", GROUPS, LAYERS)
    path = found.path(1.0, found.dense())
    assert not path[0].prunes
    assert not path[0].quantizes
    assert [one.cost for one in path] == sorted((one.cost for one in path), reverse=True)
    order = [k for k in range(len(path)) if path[k].bits["2"] == 4]
    late = [k for k in range(len(path)) if path[k].bits["6"] == 4]
    assert order[0] < late[0]
    assert all(width == 8 or width == 4 for width in path[5].bits.values())
    assert path[-1].removed == {"0": 2, "2": 4}
    harmful = next(k for k, one in enumerate(path) if one.removed["0"])
    assert all(one.removed["2"] for one in path[harmful:])


def test_a_goal_picks_the_first_network_within_it(model):
    found = space(model, "macs", GROUPS, LAYERS, widths=(None, 8))
    path = found.path(0.1, found.dense(8))
    assert first_within(path, path[0].cost) is path[0]
    assert first_within(path, path[0].cost - 1) is path[1]
    assert first_within(path, 0.0) is path[-1]
    assert set(path[0].bits.values()) == {8}  # bits cost no MACs: all layers have them from the start


def test_damage_is_measured_and_survives_json(model):
    import pintsize as ps

    images = ps.data.load("digits", limit=100).val
    found = damage_of(
        model, images, example=EXAMPLE, levels=LEVELS, blocks={}, widths=[None, 8, 4], activations=8, ignore=(),
        importance="l2", seed=0,
    )  # fmt: skip
    assert found.groups["0"][0] == 0.0
    assert found.groups["0"][2] > 0
    assert found.layers["2"][4] > found.layers["2"][8] > found.layers["2"][None] == 0.0
    assert Damage.from_json(found.to_json()) == found


def test_errors_that_level_off_go_on_rising():
    assert convex({0: 0.0, 2: 0.2, 4: 0.8, 6: 0.9}) == pytest.approx({0: 0.0, 2: 0.2, 4: 0.8, 6: 1.4})


def test_many_levels_are_thinned_evenly():
    assert levels_of(range(5)) == [0, 1, 2, 3, 4]
    assert levels_of(range(0, 100)) == [0, 14, 28, 42, 57, 71, 85, 99]


@pytest.fixture(scope="module")
def residual():
    import pintsize as ps

    torch.manual_seed(0)
    return ps.models.create("resnet20", in_channels=1, num_classes=10, stem="small").eval()


def residual_space(model, minimize="macs"):
    graph = analyse(model, EXAMPLE)
    names = weight_layers(graph)
    cost = CostModel(graph, layers_of(model, graph, EXAMPLE, names), minimize, {})
    groups = {group.name: {0: 0.0, 8: 0.2} for group in graph.groups}
    levels = {group.name: [0, 8] for group in graph.groups}
    damage = Damage(groups, {name: {8: 0.0} for name in names}, {"layer1.1": 0.01, "layer3.2": 5.0})
    return Space(graph.groups, levels, [8], damage, cost)


def test_a_block_that_goes_takes_its_channels_and_layers_with_it(residual):
    found = residual_space(residual)
    whole = found.dense(8)
    cut = found.allocation({**whole.removed, "layer1.1.conv1": 8}, whole.bits)
    without = found.without(cut, "layer1.1")
    assert whole.bits.keys() - without.bits.keys() == {"layer1.1.conv1", "layer1.1.conv2"}
    assert whole.removed.keys() - without.removed.keys() == {"layer1.1.conv1"}
    assert without == found.without(whole, "layer1.1")  # how narrow it had been does not matter
    assert without.cut_error == 0.01
    assert without.prunes
    assert without.cost == whole.cost - 2 * 64 * 16 * 16 * 9
    in_bytes = residual_space(residual, "bytes")
    saved = in_bytes.dense(8).cost - in_bytes.without(in_bytes.dense(8), "layer1.1").cost
    norms = 2 * 2 * 16 * 4
    assert saved == 2 * (16 * 16 * 9 + 8 * 16) + norms


def test_blocks_go_in_the_order_of_their_damage(residual):
    found = residual_space(residual)
    path = found.path(1.0, found.dense(8))
    assert path[1].blocks == {"layer1.1"}
    assert path[-1].blocks == {"layer1.1", "layer3.2"}
    assert [one.cost for one in path] == sorted((one.cost for one in path), reverse=True)
    onward = found.path(1.0, path[1], blocks=False)
    assert onward[0] == path[1]
    assert {one.blocks for one in onward} == {frozenset({"layer1.1"})}
    assert set(onward[-1].removed.values()) == {8}


def test_the_lack_of_a_block_is_measured(residual):
    import pintsize as ps
    from pintsize.pruning import residual_blocks

    images = ps.data.load("digits", limit=30).val
    blocks = residual_blocks(residual, EXAMPLE)
    before = residual.state_dict().keys()
    found = damage_of(
        residual, images, example=EXAMPLE, levels={}, blocks=blocks, widths=[None], activations=8, ignore=(),
        importance="l2", seed=0,
    )  # fmt: skip
    assert found.blocks.keys() == blocks.keys()
    assert min(found.blocks.values()) > 0
    assert residual.state_dict().keys() == before
    assert Damage.from_json(found.to_json()) == found
