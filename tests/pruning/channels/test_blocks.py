"""Ratios per block become ratios of channel groups, and the named configurations reach the sizes reported."""

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import InputError
from pintsize.graph import channel_groups
from pintsize.pruning.channels.blocks import block_ratios, blocks, group_ratios

CONFIG_1 = [0.1, 0.1, 0.2, 0.2, 0.2, 0.2, 0.3, 0.3]


def resnet18() -> nn.Module:
    return ps.models.create("resnet18", in_channels=1, stem="small")


def test_blocks_are_residual_blocks_or_convolutions():
    assert blocks(resnet18()) == [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert len(blocks(ps.models.create("vgg16", stem="small"))) == 13
    assert len(blocks(ps.models.create("mobilenetv2", stem="small"))) == 17
    assert blocks(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1))) == ["0", "1"]


def test_a_coupled_group_is_cut_once_a_round():
    model, example = resnet18(), torch.rand(2, 1, 28, 28)
    groups = channel_groups(model, example)
    given = block_ratios(model, CONFIG_1)
    largest = group_ratios(groups, given)
    compound = group_ratios(groups, given, combine="compound")
    # inside of one block: ⌊0.1 · 64⌋ of 64, ⌊0.3 · 512⌋ of 512
    assert largest["layer1.0.conv1"] == 6 / 64
    assert largest["layer4.1.conv1"] == 153 / 512
    # the residual stream of layer4 belongs to two blocks: ⌊0.3 · 512⌋, or ⌊(1 − 0.7²) · 512⌋
    stream = next(g.layers[0] for g in groups if "layer4.0.conv2" in g.layers)
    assert largest[stream] == 153 / 512
    assert compound[stream] == 261 / 512
    assert len(set(largest)) == len(largest) <= len(groups)


@pytest.mark.parametrize(
    ("name", "ratios", "rounds", "millions"),
    [
        ("resnet18", CONFIG_1, 5, [4.49, 1.90, 0.846, 0.405, 0.208]),
        ("vgg16", [0.4, 0.2, 0.1, 0.05, 0.1, 0.5, 0.5, *[0.6] * 6], 4, [None, None, None, 0.32]),
        (
            "vgg16-bn", [0.6, 0.1, 0.15, 0.1, 0.1, 0.15, 0.15, 0.2, 0.8, 0.8, 0.8, 0.4, 0.4], 4,
            [None, None, None, 0.93],
        ),
    ],
)  # fmt: skip
def test_named_configurations_reach_the_reported_sizes(name, ratios, rounds, millions):
    """Within 4 %: the seed pruned the stem's and shortcuts' channels a little differently."""
    model, example = ps.models.create(name, in_channels=1, stem="small"), torch.rand(2, 1, 28, 28)
    for number in range(rounds):
        given = block_ratios(model, ratios)
        chosen = group_ratios(channel_groups(model, example), given, combine="compound")
        ps.prune(model, example, ratios=chosen, scope="local", importance="l1")
        if millions[number] is not None:
            assert ps.profile(model, example).params / 1e6 == pytest.approx(millions[number], rel=0.04)


@pytest.mark.parametrize(
    ("ratios", "match"),
    [
        ([0.1, 0.2], "8 blocks: layer1.0"),
        ([0.1] * 7 + [1], "would vanish"),
        ([0.1] * 7 + [1.2], r"\[0, 1\)"),
        ([0.0] * 8, "all are 0"),
        ({"layer9": 0.5}, "matches no module"),
        ({"layer1.*": True}, r"\[0, 1\)"),
    ],
)
def test_bad_ratios(ratios, match):
    with pytest.raises(InputError, match=match):
        block_ratios(resnet18(), ratios)


def test_a_group_never_vanishes():
    model, example = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 1)), torch.rand(2, 1, 4, 4)
    assert group_ratios(channel_groups(model, example), {"0": 0.99}) == {"0": 0.5}
