"""Sums whose rounding would depend on the runtime: their scales are moved off the ties."""

import copy

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.quant import calibrate, convert
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


def quantized(seed=0, **options):
    torch.manual_seed(seed)
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


def avoid(model, one, other, made, *, product=False):
    """`avoid_ties` for quantizers rather than their names."""
    names = {id(quantizer): name for name, quantizer in convert.activation_quantizers(model).items()}
    avoid_ties(model, {names[id(made)]: [Pair(names[id(one)], names[id(other)], product=product)]})


@pytest.mark.parametrize("product", [False, True])
def test_quantizing_leaves_no_result_near_a_tie(product, monkeypatch):
    near = []
    for done in (avoid_ties, lambda model, pairs: None):
        monkeypatch.setattr(calibrate, "avoid_ties", done)
        near.append(
            min(distance(*quantized(seed, product=product)[1:], product=product) for seed in range(3))
        )
    assert near[0] > 5e-5 > near[1]


@pytest.mark.parametrize("product", [False, True])
def test_a_scale_with_ties_is_moved_a_little(product):
    model, one, other, made = quantized(product=product)
    for quantizer, scale in ((one, 0.5), (other, 0.25), (made, 1.0)):
        quantizer.scale.fill_(scale)
    assert distance(one, other, made, product=product) == 0  # 0.5 + 0.0 and 0.5 · 1.0 are between 0 and 1
    avoid(model, one, other, made, product=product)
    assert distance(one, other, made, product=product) > 3e-5
    assert 1 < float(made.scale) < 1.0007


class Chain(nn.Module):
    """A sum of sums and a sum with an early value: what is found first is not what runs first."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(1, 2, 1) for _ in range(4))
        self.head = nn.Linear(2, 2)

    def forward(self, x):
        y = [conv(x) for conv in self.convs]
        r = (y[0] + y[1]) + (y[2] + y[3])
        return self.head((y[0] + r).mean((2, 3)))


def test_sums_of_sums_in_the_order_they_run():
    for seed in range(4):
        torch.manual_seed(seed)
        model = Chain().eval()
        ps.quantize(model, calibration=torch.randn(64, 1, 4, 4), progress=False)
        found = convert.activation_quantizers(model)
        y = [found[f"convs__{number}__conv2d_0"] for number in range(4)]
        p, q, r, t = (found[f"network__add_{number}"] for number in range(4))
        for one, other, made in ((y[0], y[1], p), (y[2], y[3], q), (p, q, r), (y[0], r, t)):
            assert distance(one, other, made) > 3e-5


def test_a_scale_without_ties_stays():
    model, one, other, made = quantized()
    before = copy.deepcopy(model.state_dict())
    avoid(model, one, other, made)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_results_that_are_cut_off_do_not_count():
    model, one, other, made = quantized()
    for quantizer, scale, zero in ((one, 1.0, 0), (other, 1.0, 0), (made, 1 / 512.5, 0)):
        quantizer.scale.fill_(scale)
        quantizer.zero_point.fill_(zero)
    before = made.scale.clone()
    avoid(model, one, other, made)
    assert torch.equal(made.scale, before)  # every odd sum is on a tie, and beyond the last level
