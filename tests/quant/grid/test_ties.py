"""Results whose rounding would depend on the runtime: scales are moved so that there are none."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pintsize as ps
from pintsize.graph import trace
from pintsize.quant.grid import ties
from pintsize.quant.grid.quantizer import FakeQuantize
from pintsize.quant.grid.quotients import odd_quotients
from pintsize.quant.grid.ties import avoid_ties, settle
from pintsize.quant.network import convert
from pintsize.quant.network.flow import build
from pintsize.quant.network.placement import Pair, Plan
from pintsize.quant.network.record import replan, step_of
from pintsize.quant.ptq import calibrate
from pintsize.quant.ptq.ranges import floating_point


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
    pairs = {names[id(made)]: [Pair(names[id(one)], names[id(other)], product=product)]}
    avoid_ties(model, step_of(model), Plan(pairs=pairs))


@pytest.mark.parametrize("product", [False, True])
def test_quantizing_leaves_no_result_near_a_tie(product, monkeypatch):
    near = []
    for done in (settle, lambda *_: None):
        monkeypatch.setattr(calibrate, "settle", done)
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


def nearest_of_a_layer(multiplier):
    """The least distance between a middle and n · multiplier, over all n that give up to 255 levels."""
    n = torch.arange(1, int(255 / float(multiplier)) + 1, dtype=torch.float64)
    return float((n * multiplier - torch.floor(n * multiplier) - 0.5).abs().min())


@pytest.mark.parametrize("largest", [0.6, 1e-2, 1e-3])
@pytest.mark.parametrize("spread", [20, 1000])
def test_no_integer_times_an_odd_quotient_is_near_a_tie(largest, spread):
    """Also in channels that are small beside the largest."""
    torch.manual_seed(0)
    ratio = 3.7
    scale = ratio * largest * torch.logspace(0, -1, 20, base=spread)
    made = odd_quotients(scale, ratio)
    assert (made / scale - 1).abs().max() < 4e-3
    assert made.dtype == torch.float32
    assert torch.equal(odd_quotients(made, ratio), made)
    rounding = 1.6e-5  # the error of float32 at 255 levels; multipliers below twice of it can be no nearer
    telling = [m for m in (made.double() / ratio).tolist() if m > 2 * rounding]
    assert len(telling) >= 8
    for m in telling:
        assert nearest_of_a_layer(m) > 0.5 * min(1 / 511, m) - rounding


def test_scales_of_channels_that_are_next_to_nothing_are_finite():
    made = odd_quotients(torch.tensor([1e-2, 1e-30, 0.0]), 2.0)
    assert made[0] == pytest.approx(1e-2, rel=4e-3)
    assert (made[1:] > 0).all()
    assert (made[1:] < 1e-5).all()
    assert (odd_quotients(torch.zeros(2), None) > 0).all()


def test_scales_of_a_layer_that_gives_floats_keep_eight_bits():
    assert odd_quotients(torch.tensor([1.0, 1 + 2**-12, 3.1415927]), None).tolist() == [1, 1, 3.140625]


@pytest.mark.parametrize("method", ["mse", "lsq"])
def test_every_layer_of_a_network_is_settled(method):
    torch.manual_seed(0)
    model = ps.models.create("resnet-demo", num_classes=10, in_channels=1).eval()
    x = torch.randn(16, 1, 16, 16)
    ps.quantize(model, calibration=x, method=method, progress=False)
    if method == "lsq":
        with torch.no_grad():
            for quantizer in convert.quantizers(model):
                quantizer.scale.mul_(1 + 0.1 * torch.rand_like(quantizer.scale))
        before = model(x)
        ps.quant.fold_batchnorm(model, x[:2])
        assert (model(x) - before).abs().max() < 0.05 * before.abs().max()
    scale = {
        name: quantizer.scale.detach() for name, quantizer in convert.activation_quantizers(model).items()
    }
    for layer, source, result in (
        ("conv1", "input_0", "relu"), ("layer1.0.conv1", "relu", "layer1__0__relu1"),
        ("layer2.0.conv1", "layer1__1__relu2", "layer2__0__relu1"),
    ):  # fmt: skip
        read, given = (
            next(one for name, one in scale.items() if name.startswith(key)) for key in (source, result)
        )
        unit = model.get_submodule(layer).weight_quantizer.scale.detach().double() * read.double()
        assert min(nearest_of_a_layer(float(one)) for one in unit / given.double()) > 2e-5


def test_quantizers_are_in_the_mode_of_their_network():
    model = ps.models.create("resnet-demo", num_classes=10, in_channels=1).eval()
    ps.quantize(model, calibration=torch.randn(16, 1, 16, 16), method="lsq", progress=False)
    assert not any(module.training for module in model.modules())


def test_scales_that_training_pushed_below_zero_are_folded_as_they_were_used():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(3),
    ).eval()  # fmt: skip
    x = torch.randn(16, 1, 8, 8)
    model(x)
    ps.quantize(model, calibration=x, method="lsq", progress=False)
    with torch.no_grad():
        model[0].weight_quantizer.scale[0] = -0.01
        next(iter(convert.activation_quantizers(model).values())).scale.fill_(0.0)
        twin = copy.deepcopy(model)
        expected = twin(x)
        ps.quant.fold_batchnorm(model, x[:2])
        assert (model(x) - expected).abs().max() < 0.05 * expected.abs().max()


def test_a_norm_without_factors_folds_to_a_constant():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(3)).eval()
    x = torch.randn(16, 1, 8, 8)
    with torch.no_grad():
        model(x)
        model[1].weight.fill_(0.0)
        model[1].bias.copy_(torch.tensor([1.0, 2.0, -1.0, 0.5]))
        ps.quantize(model, calibration=x, method="lsq", progress=False)
        expected = model(x)
        ps.quant.fold_batchnorm(model, x[:2])
        assert (model(x) - expected).abs().max() < 0.01 * expected.abs().max()


def test_a_channel_trained_to_nothing_stays_nothing_after_folding():
    """Its weights lie far beyond the last level of its scale, and many of them are summed."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 256, 1), nn.ReLU(), nn.Conv2d(256, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 16, 3),
    ).eval()  # fmt: skip
    x = torch.randn(16, 4, 6, 6)
    with torch.no_grad():
        model.train()(x)
        ps.quantize(model.eval(), calibration=x, method="lsq", progress=False)
        model[2].weight.abs_()
        model[2].weight_quantizer.scale[0] = -0.01
        expected = model(x)
        ps.quant.fold_batchnorm(model, x[:2])
        assert (model(x) - expected).abs().max() < 0.01 * expected.abs().max()


def test_scales_of_dead_channels_are_those_of_the_next_forward():
    made = odd_quotients(torch.full((1000,), 1e-8), 1e-5 / 3)
    assert (made >= torch.tensor(1e-8)).all()


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_norms_that_are_not_finite_are_not_folded(name):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).eval()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        getattr(model[1], name)[2] = float("nan")
    with pytest.raises(ps.errors.InputError, match="batch norm 1: its weight or bias is not finite"):
        ps.quant.fold_batchnorm(model, torch.randn(2, 1, 8, 8))
    assert isinstance(model[1], nn.BatchNorm2d)
    assert torch.equal(model[0].weight, before["0.weight"])


@pytest.mark.parametrize("product", [False, True])
def test_settling_again_changes_nothing(product, monkeypatch):
    for far in (1e-4, 1.0):  # with 1.0 no scale is ever far enough, and the best of its stretch is taken
        monkeypatch.setattr(ties, "_FAR", far)
        for seed in range(3):
            model, one, other, made = quantized(seed, product=product)
            avoid(model, one, other, made, product=product)
            before = copy.deepcopy(model.state_dict())
            for _ in range(2):
                avoid(model, one, other, made, product=product)
                assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("ratio", [None, 0.37])
def test_odd_quotients_of_odd_quotients(ratio):
    once = odd_quotients(torch.logspace(-7, 1, 500), ratio)
    assert torch.equal(odd_quotients(once, ratio), once)


class Means(nn.Module):
    """A pool between two layers."""

    def __init__(self, pool):
        super().__init__()
        self.conv, self.pool, self.head = nn.Conv2d(1, 4, 1), pool, nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.pool(self.conv(x).relu())
        return self.head(x if x.dim() == 4 else x[:, :, None, None])


class Together(nn.Module):
    """What two pools of one tensor give, concatenated."""

    def forward(self, x):
        wide = F.interpolate(F.adaptive_avg_pool2d(x, 2), scale_factor=2)
        return torch.cat([F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)[:, :2], wide[:, 2:]], 1)


POOLS = {
    "global": (lambda x: x.mean((2, 3)), {49}),
    "module": (nn.AdaptiveAvgPool2d(1), {49}),
    "windows": (nn.AvgPool2d(2), {4}),
    "border": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), {4, 6, 9}),
    "together": (Together(), {4, 6, 9, 16}),
}


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("quotient", [0.5, 3 / 8, 1.0])
def test_no_mean_is_near_a_tie(kind, quotient):
    torch.manual_seed(0)
    pool, divisors = POOLS[kind]
    model, side = Means(pool).eval(), 8 if kind == "together" else 7
    ps.quantize(model, calibration=torch.randn(16, 1, side, side), progress=False)
    step = step_of(model)
    with floating_point(model):
        plan = replan(build(trace.record(model, torch.randn(1, 1, side, side)), model), step)
    ((name, pairs),) = plan.pairs.items()
    assert {number for pair in pairs for number in pair.divisors} == divisors
    quantizers = convert.activation_quantizers(model)
    read, made = quantizers[pairs[0].one], quantizers[name]
    count = max(divisors)
    levels = 2 * max(1, round(count * quotient / 2))
    made.scale.copy_(read.scale * levels / count)  # a sum of half as many levels is a tie

    def nearest():
        n = torch.arange(-255 * 49, 255 * 49, dtype=torch.float64)
        steps = torch.cat([n / divisor for divisor in divisors]) * (read.scale.double() / made.scale.double())
        steps = steps[(steps > -256) & (steps < 256)]
        return float((steps - steps.floor() - 0.5).abs().min())

    before = made.scale.clone()
    assert nearest() < 1e-5
    settle(model, step, plan)
    assert nearest() > 3e-4
    assert 0 < abs(float(made.scale / before) - 1) < 0.02
    settled = copy.deepcopy(model.state_dict())
    settle(model, step, plan)
    assert all(torch.equal(tensor, settled[key]) for key, tensor in model.state_dict().items())


def test_a_pool_whose_result_has_far_wider_steps_than_what_it_reads():
    """As many results as it has, not as many as would fit between the levels."""
    read, made = FakeQuantize(8), FakeQuantize(8)
    read.scale.fill_(1e-9)
    made.scale.fill_(1.0)
    pair = Pair("read", None, product=False, divisors=(4, 6))
    steps = ties._steps_of(pair, made, {"read": read})
    assert len(steps) == (4 * 255 + 1) + (6 * 255 + 1)
    assert float(steps.max()) == pytest.approx(255e-9)
    read.scale.fill_(1.0)
    made.scale.fill_(1e-9)  # no mean but 0 and what is beyond the levels
    assert ties._steps_of(pair, made, {"read": read}).unique().tolist() in ([], [0.0])
