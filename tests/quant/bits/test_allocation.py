"""Choosing bits by layer: the integer program against all choices, the errors against a computation by hand."""

import copy
import itertools

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import InputError
from pintsize.measure import profile
from pintsize.quant import choose_bits
from pintsize.quant.bits.allocation import solve


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).eval()


IMAGES = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("seed", range(5))
def test_the_program_finds_the_best_of_all_choices(seed):
    generator = torch.Generator().manual_seed(seed)
    widths = (2, 4, 8, None)
    errors, costs = {}, {}
    for layer in "abcd":
        drawn = torch.rand(4, 2, generator=generator).tolist()
        errors[layer] = {width: pair[0] for width, pair in zip(widths, drawn, strict=True)}
        costs[layer] = {width: 1e6 * pair[1] for width, pair in zip(widths, drawn, strict=True)}
    for share in (0.3, 0.5, 0.8):
        choices = [dict(zip("abcd", choice, strict=True)) for choice in itertools.product(widths, repeat=4)]
        budget = share * sum(max(row.values()) for row in costs.values())
        affordable = [c for c in choices if sum(costs[name][width] for name, width in c.items()) <= budget]
        if not affordable:
            with pytest.raises(InputError, match="cheapest choice"):
                solve(errors, costs, budget)
            continue
        best = min(sum(errors[name][width] for name, width in choice.items()) for choice in affordable)
        found = solve(errors, costs, budget)
        assert sum(costs[name][width] for name, width in found.items()) <= budget * (1 + 1e-9)
        assert sum(errors[name][width] for name, width in found.items()) == pytest.approx(best)


def test_errors_are_those_of_each_layer_alone():
    model = network()
    plan = choose_bits(model, calibration=IMAGES, bytes=0.2, widths=(3, 8), activations=None)
    reference = network()
    with torch.no_grad():
        wanted = reference(IMAGES)
    for name in ("0", "3", "7"):
        alone = network()
        others = [other for other in ("0", "3", "7") if other != name]
        ps.quantize(alone, weights=3, activations=None, ignore=others, edges=None, example=IMAGES[:2])
        with torch.no_grad():
            wrong = (alone(IMAGES) - wanted).square().sum() / wanted.square().sum()
        assert plan.errors[name][3] == pytest.approx(wrong.item(), rel=1e-3)
        assert plan.errors[name][8] < plan.errors[name][3]


def test_the_plan_fits_the_budget_and_quantize_takes_it():
    model = network()
    before = copy.deepcopy(model.state_dict())
    plan = choose_bits(model, calibration=IMAGES, bytes=0.16)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    count = 4 * (216 + 1152 + 80)
    assert plan.budget == pytest.approx(0.16 * count)
    assert plan.cost <= plan.budget
    assert plan.cost == sum(layer.cost for layer in plan.layers)
    assert {layer.bits for layer in plan.layers} <= {2, 3, 4, 6, 8}
    ps.quantize(model, weights=plan.weights, activations=plan.activations, calibration=IMAGES)
    layers = {layer.name: layer for layer in profile(model, IMAGES).layers}
    for layer in plan.layers:
        assert layers[layer.name].bits == layer.bits
        bias = 4 * (5 if layer.name == "7" else 8 if layer.name == "0" else 16)
        assert layers[layer.name].bytes - bias == layer.cost
    assert "sum" in plan.table()


def test_more_bytes_are_no_worse_and_the_extremes_are_uniform():
    model = network()
    plans = [choose_bits(model, calibration=IMAGES, bytes=share) for share in (0.12, 0.16, 0.2, 1.0)]
    errors = [plan.error for plan in plans]
    assert errors == sorted(errors, reverse=True)
    assert set(plans[-1].weights.values()) == {8}


def test_latency_leaves_layers_in_floating_point_where_there_is_room():
    model = network()
    plan = choose_bits(model, calibration=IMAGES, latency=1.0)
    assert plan.unit == "ms"
    assert plan.cost <= plan.budget
    assert all(row[None] > 0 and row[8] > 0 for row in plan.costs.values())
    costs = {name: {8: 1.0, None: 3.0} for name in ("0", "3", "7")}
    plan = choose_bits(model, calibration=IMAGES, latency=0.6, costs=costs)  # 5.4 of 9: one layer in float
    assert sorted(plan.weights.values(), key=str) == [8, 8, None]
    kept = next(name for name, bits in plan.weights.items() if bits is None)
    assert plan.errors[kept][8] == max(row[8] for row in plan.errors.values())
    ps.quantize(model, weights=plan.weights, activations=plan.activations, calibration=IMAGES)
    with torch.no_grad():
        assert model(IMAGES).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one budget"),
        ({"bytes": 0.5, "latency": 0.5}, "exactly one budget"),
        ({"bytes": 0.0}, "fraction to keep"),
        ({"bytes": 1.5}, "fraction to keep"),
        ({"bytes": 0.01}, "cheapest choice"),
        ({"bytes": 0.5, "widths": (2, 9)}, "from 1 to 8"),
        ({"bytes": 0.5, "widths": ()}, "no number of bits"),
        ({"bytes": 0.5, "widths": (None,)}, "no number of bits"),
        ({"bytes": 0.5, "ignore": ("nothing*",)}, "matches no layer"),
        ({"bytes": 0.5, "costs": {"0": {2: 1.0}}}, "there is none for"),
        ({"bytes": 0.5, "calibration": []}, "no images"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(InputError, match=message):
        choose_bits(network(), **{"calibration": IMAGES, **options})
