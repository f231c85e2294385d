"""MobileNetV2 and ShuffleNetV2: shuffles, shortcuts and strides by hand."""

import pytest
import torch
from torch import nn

from pintsize import models
from pintsize.models.mobilenetv2 import InvertedResidual
from pintsize.models.shufflenetv2 import Unit


def test_unit_interleaves_the_untouched_and_the_computed_half() -> None:
    unit = Unit(6, 6, 1)
    unit.branch2 = nn.Identity()
    channels = torch.arange(6.0).view(1, 6, 1, 1).expand(2, 6, 3, 3)
    assert unit(channels)[1, :, 2, 2].tolist() == [0, 3, 1, 4, 2, 5]


def test_unit_with_stride_feeds_all_channels_to_both_branches() -> None:
    unit = Unit(4, 10, 2)
    assert unit.branch1[0].in_channels == unit.branch2[0].in_channels == 4
    assert unit(torch.randn(2, 4, 8, 8)).shape == (2, 10, 4, 4)


def test_inverted_residual_adds_its_input_only_where_shapes_agree() -> None:
    x = torch.randn(2, 8, 6, 6)
    block = InvertedResidual(8, 8, 1, 6).eval()
    nn.init.zeros_(block.conv[2].weight)
    assert torch.equal(block(x), x)
    assert not InvertedResidual(8, 8, 2, 6).has_shortcut
    assert not InvertedResidual(8, 9, 1, 6).has_shortcut


def test_mobilenetv2_keeps_relu6_and_has_ten_shortcuts() -> None:
    model = models.create("mobilenetv2")
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(nn.ReLU6) == 35
    assert kinds.count(nn.ReLU) == 0
    blocks = [module for module in model.modules() if isinstance(module, InvertedResidual)]
    assert (len(blocks), sum(block.has_shortcut for block in blocks)) == (17, 10)


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 2), ("small", 8)])
def test_strides_of_the_stems(stem: str, side: int) -> None:
    with torch.device("meta"):
        images = torch.empty(1, 3, 64, 64)
        assert models.create("mobilenetv2", stem=stem).features(images).shape == (1, 1280, side, side)
        net = models.create("shufflenetv2-x1.0", stem=stem)
        y = net.stage4(net.stage3(net.stage2(net.maxpool(net.conv1(images)))))
        assert y.shape == (1, 464, side, side)
