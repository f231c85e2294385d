"""Rewritten operations give torch's numbers, whatever their options."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pintsize.deploy import rewrites


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 3, 1), (4, 3, 2), (5, 4, 1), (2, 3, 1)]
)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_average_pools_of_every_side(dims, kernel, stride, padding, include):
    pool, rewrite = getattr(F, f"avg_pool{dims}d"), rewrites.average_pool(dims)
    for side in range(5, 13):
        x = torch.randn(2, 3, *[side, side + 1, side][:dims])
        options = ([kernel], [stride], [padding], True, include)
        torch.testing.assert_close(rewrite(x, *options), pool(x, kernel, stride, padding, True, include))
        if dims > 1:
            own = pool(x, kernel, stride, padding, True, include, divisor_override=7)
            torch.testing.assert_close(rewrite(x, *options, 7), own)


def test_a_divisor_by_hand():
    found = rewrites.average_pool(2)(torch.ones(1, 1, 4, 4), [2, 2], divisor_override=3)
    assert torch.equal(found, torch.full((1, 1, 2, 2), 4 / 3))


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_negative_and_circular_padding(mode):
    x, done = torch.arange(30.0).reshape(1, 1, 5, 6), 0
    for amounts in itertools.product((-2, -1, 0, 2), repeat=4):
        if mode != "circular" and min(amounts) >= 0:
            continue
        try:
            expected = F.pad(x, amounts, mode)
        except RuntimeError:  # torch refuses some crops
            continue
        assert torch.equal(rewrites.pad(x, amounts, mode), expected), amounts
        done += 1
    assert done > 100


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize(
    ("size", "factors"), [((4, 20), None), (None, [0.4, 0.4]), (None, [0.7, 1.7]), ((1, 1), None)]
)
def test_antialiased_resizes(mode, corners, size, factors):
    resize = rewrites.Resize(getattr(torch.ops.aten, f"_upsample_{mode}2d_aa").vec)
    x = torch.randn(2, 3, 9, 12)
    resize.prepare(x.shape, size, corners, factors)
    expected = resize.target(x, size, corners, factors)
    torch.testing.assert_close(resize(x, size, corners, factors), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_adaptive_maxima_of_unequal_windows(dims):
    x = torch.randn(2, 3, *[7, 8, 5][:dims])
    assert torch.equal(
        rewrites.adaptive_maximum(x, [3] * dims)[0], getattr(F, f"adaptive_max_pool{dims}d")(x, 3)
    )


def test_a_factor_that_is_no_quotient_of_the_sizes():
    resize = rewrites.Resize(torch.ops.aten.upsample_bilinear2d.vec, fine=rewrites._whole)
    x = torch.randn(2, 3, 12, 10)
    resize.prepare(x.shape, None, False, [1.7, 2.0])
    expected = F.interpolate(x, scale_factor=(1.7, 2.0), mode="bilinear")
    torch.testing.assert_close(resize(x, None, False, [1.7, 2.0]), expected, atol=1e-5, rtol=1e-5)
    assert resize(x, None, False, [1.5, 2.0]) is NotImplemented
    assert resize(x, [7, 9], False, None) is NotImplemented


def test_what_is_fine_stays():
    x = torch.ones(1, 3, 8, 8)
    assert rewrites.average_pool(2)(x, [2, 2]) is NotImplemented
    assert rewrites.pad(x, [1, 2], "reflect") is NotImplemented
    program = torch.export.export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), (x,))
    assert rewrites.rewritten(program) is program
