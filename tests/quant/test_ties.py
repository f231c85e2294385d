"""Sums whose rounding would depend on the runtime: their scales are moved off the ties."""

import copy

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.quant import convert
from pintsize.quant.placement import Pair
from pintsize.quant.ties import avoid_ties


class Sum(nn.Module):
    """x · w + v · x, by hand."""

    def __init__(self, product: bool = False) -> None:
        super().__init__()
        self.one, self.other, self.head = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.Linear(1, 2)
        self.product = product

    def forward(self, x):
        one, other = self.one(x), self.other(x)
        both = one * other if self.product else one + other
        return self.head(both.mean((2, 3)))


def quantized(**options):
    torch.manual_seed(0)
    model = Sum(**options).eval()
    ps.quantize(model, calibration=torch.randn(64, 1, 4, 4), progress=False)
    one, other, made = list(convert.activation_quantizers(model).values())[1:4]
    return model, one, other, made


def distance(one, other, made, *, product=False):
    """Of the nearest result to the middle between two levels, by going through all of them."""
    nearest = 1.0
    levels = [
        [(q - int(each.zero_point)) * float(each.scale.double()) for q in range(each.qmin, each.qmax + 1)]
        for each in (one, other)
    ]
    for a in levels[0]:
        for b in levels[1]:
            steps = (a * b if product else a + b) / float(made.scale.double())
            if made.qmin <= steps + int(made.zero_point) <= made.qmax:
                nearest = min(nearest, abs(steps - (steps // 1) - 0.5))
    return nearest


@pytest.mark.parametrize("product", [False, True])
def test_no_result_is_near_a_tie(product):
    _, one, other, made = quantized(product=product)
    assert distance(one, other, made, product=product) > 3e-5


def test_a_scale_with_ties_is_moved_a_little():
    model, one, other, made = quantized()
    for quantizer, scale in ((one, 0.5), (other, 0.25), (made, 1.0)):
        quantizer.scale.fill_(scale)
    assert distance(one, other, made) == 0  # 0.5 + 0.0 is in the middle between 0 and 1
    names = {id(quantizer): name for name, quantizer in convert.activation_quantizers(model).items()}
    pair = Pair(names[id(one)], names[id(other)], product=False)
    avoid_ties(model, {names[id(made)]: [pair]})
    assert distance(one, other, made) > 3e-5
    assert 1 < float(made.scale) < 1.0007


def test_a_scale_without_ties_stays():
    model, one, other, made = quantized()
    before = copy.deepcopy(model.state_dict())
    names = {id(quantizer): name for name, quantizer in convert.activation_quantizers(model).items()}
    avoid_ties(model, {names[id(made)]: [Pair(names[id(one)], names[id(other)], product=False)]})
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_results_that_are_cut_off_do_not_count():
    model, one, other, made = quantized()
    for quantizer, scale, zero in ((one, 1.0, 0), (other, 1.0, 0), (made, 1 / 512, 0)):
        quantizer.scale.fill_(scale)
        quantizer.zero_point.fill_(zero)
    names = {id(quantizer): name for name, quantizer in convert.activation_quantizers(model).items()}
    avoid_ties(model, {names[id(made)]: [Pair(names[id(one)], names[id(other)], product=False)]})
    assert float(made.scale) == 1 / 512  # every sum but 0 is beyond the last level
