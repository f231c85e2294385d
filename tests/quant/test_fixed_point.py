"""Fixed point: levels and gradients against their formulas, norms that survive 8 bits, mistakes by name."""

import copy
import math

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import IllegalOrder, InputError, InputTypeError
from pintsize.quant import FixedPoint, fixed_point
from pintsize.storage.record import record

MODES = ("linear", "minmax", "log", "tanh")


def quantizer(bits, mode, low, high, least=1e-3):
    made = FixedPoint(bits, mode)
    made.set_range(low, high, least)
    return made


def test_linear_by_hand():
    """v = 3 → ⌈log2 3⌉ = 2, f = 4 − 1 − 2 = 1: halves from −4 to 3.5."""
    made = quantizer(4, "linear", -1.0, 3.0)
    assert made.scale.item() == 0.5
    assert made(torch.tensor([0.24, 0.26, 3.4, 9.0, -9.0, 0.75])).tolist() == [0.0, 0.5, 3.5, 3.5, -4.0, 1.0]


@pytest.mark.parametrize(("largest", "fraction"), [(1.0, 7), (1.01, 6), (0.25, 9), (100.0, 0), (600.0, -3)])
def test_linear_steps_are_powers_of_two(largest, fraction):
    assert quantizer(8, "linear", 0.0, largest).scale.item() == 2.0**-fraction


def test_minmax_by_hand():
    made = quantizer(2, "minmax", -1.0, 2.0)
    assert made(torch.tensor([-5.0, -0.6, -0.4, 0.9, 2.0, 7.0])).tolist() == [-1.0, -1.0, 0.0, 1.0, 2.0, 2.0]


def test_log_by_hand():
    """3 bits: a sign and four magnitudes from 1 to 8, a factor of 2 apart; zero stays."""
    made = quantizer(3, "log", -8.0, 5.0, least=1.0)
    found = made(torch.tensor([0.0, 0.3, 1.3, 1.5, -3.9, 8.0, -100.0]))
    assert found.tolist() == pytest.approx([0.0, 1.0, 1.0, 2.0, -4.0, 8.0, -8.0], rel=1e-5)


@pytest.mark.parametrize("bits", [3, 8, 16])
def test_tanh_against_the_formula_and_finite_at_the_ends(bits):
    made = quantizer(bits, "tanh", -1.0, 2.0)
    x = torch.linspace(-50, 50, 501, dtype=torch.float64)
    found = made(x)
    assert found.isfinite().all()
    steps = 2**bits - 1
    code = torch.round((torch.tanh(x) + 1) / 2 * steps) / steps  # unit 2 / 2
    expected = torch.atanh((2 * code - 1).clamp(-1 + 0.5 / steps, 1 - 0.5 / steps))
    assert torch.allclose(found, expected, atol=1e-5)
    assert found.max() == -found.min()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_at_most_two_to_the_bits_levels_and_idempotent(mode, bits):
    made = quantizer(bits, mode, -3.0, 5.0)
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    found = made(x).float()
    assert len(found[found != 0].unique()) <= 2**bits
    assert torch.allclose(made(found), found, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_gradient_is_one_inside_and_zero_outside(mode):
    made = quantizer(6, mode, -2.0, 2.0)
    x = torch.tensor([-50.0, -1.0, 0.3, 1.1, 50.0], requires_grad=True)
    (made(x) * torch.arange(1.0, 6.0)).sum().backward()
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]


@pytest.mark.parametrize("mode", MODES)
def test_sixteen_bits_are_near_the_values(mode):
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    made = quantizer(16, mode, float(x.min()), float(x.max()), least=float(x.abs().min()))
    assert (made(x) - x).abs().max() < 2e-3


def network(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8, affine=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    with torch.no_grad():
        for _ in range(20):
            model(IMAGES)
    with torch.no_grad():  # a tiny variance, which 8 bits of its own would round to zero
        model[1].running_var[0], model[1].weight[0] = 1e-4, 0.02
    return model.eval()


IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mode", MODES)
def test_eight_bits_everywhere_stay_near_the_float_network(mode):
    model = network()
    with torch.no_grad():
        wanted = model(IMAGES)
        fixed_point(model, weights=8, activations=8, norm=8, mode=mode, calibration=IMAGES)
        error = (model(IMAGES) - wanted).norm() / (wanted - wanted.mean(0)).norm()
    assert error < 0.35
    with torch.no_grad():
        more = network()
        fixed_point(more, weights=12, activations=12, norm=12, mode=mode, calibration=IMAGES)
        assert (more(IMAGES) - wanted).norm() < 0.5 * (model(IMAGES) - wanted).norm()


def test_parameters_lie_on_the_levels_that_are_reported():
    model = network()
    result = fixed_point(model, weights=6, activations=5, norm=9, calibration=IMAGES)
    tensors = {tensor.name: tensor for tensor in result.tensors}
    assert {tensor.kind: tensor.bits for tensor in result.tensors} == {
        "parameter": 6,
        "activation": 5,
        "norm": 9,
    }
    for name, tensor in {
        "0.weight": model[0].weight,
        "3.bias": model[3].bias,
        "1 factor": model[1].weight,
    }.items():
        grid = tensor.detach() * 2.0 ** tensors[name].fraction_bits
        assert torch.equal(grid, grid.round())
        assert -(2 ** (tensors[name].bits - 1)) <= grid.min() <= grid.max() < 2 ** (tensors[name].bits - 1)
    assert "overflow" in result.table()


def test_norms_are_a_factor_and_a_shift():
    model = network()
    norm = copy.deepcopy(model[1])
    fixed_point(model, weights=None, activations=None, norm=16, example=IMAGES[:2])
    with torch.no_grad():
        x = torch.randn(4, 8, 5, 5) * 0.01
        assert torch.allclose(model[1](x), norm(x), atol=2e-3)
        assert model[4].weight is not None
    result = fixed_point(network(), weights=None, activations=None, example=IMAGES[:2])
    assert [tensor.kind for tensor in result.tensors] == ["norm"] * 4


def test_overflow_rate_by_hand():
    """One value of 200 is 100, the others at most 1: with 1 % overflow the range ends at 1."""
    model = nn.Sequential(nn.Linear(200, 1, bias=False)).eval()
    model[0].weight.data = torch.linspace(-1, 1, 200)[None].clone()
    model[0].weight.data[0, 7] = 100.0
    whole, some = copy.deepcopy(model), copy.deepcopy(model)
    kept = fixed_point(whole, activations=None, example=torch.zeros(1, 200)).tensors[0]
    assert (kept.fraction_bits, kept.overflow) == (0, 0.0)
    cut = fixed_point(some, activations=None, overflow_rate=0.01, example=torch.zeros(1, 200)).tensors[0]
    assert cut.fraction_bits == 7
    assert cut.overflow == pytest.approx(2 / 200)  # 100, and 1.0 itself, half a step above the last level
    assert some[0].weight[0, 7] == 1 - 2.0**-7
    assert math.isclose(whole[0].weight[0, 7].item(), 100.0)


@pytest.mark.parametrize("mode", MODES)
def test_saved_and_loaded(mode, tmp_path):
    model = network()
    fixed_point(model, mode=mode, calibration=IMAGES)
    ps.save(model, tmp_path / "net.safetensors")
    loaded = ps.load(tmp_path / "net.safetensors", model=network(1))
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), model(IMAGES))
    assert record(loaded) == record(model)
    ps.save(model, tmp_path / "net.pint")
    packed = ps.load(tmp_path / "net.pint", model=network(1))
    with torch.no_grad():
        assert torch.equal(packed(IMAGES), model(IMAGES))


@pytest.mark.parametrize("mode", MODES)
def test_exported(mode, tmp_path):
    model = network()
    fixed_point(model, mode=mode, calibration=IMAGES)
    ps.export(model, tmp_path / "net.onnx", example=IMAGES[:2])
    runtime = ps.open_runtime(tmp_path / "net.onnx")
    with torch.no_grad():
        error = (torch.as_tensor(runtime(IMAGES)) - model(IMAGES)).abs().max()
    runtime.close()
    assert error < 0.05


def test_removed_weights_stay_removed_and_training_goes_on():
    model = network()
    ps.sparsify(model, density=0.5)
    removed = model[3].weight.detach() == 0
    fixed_point(model, mode="minmax", calibration=IMAGES)
    with torch.no_grad():
        assert model(IMAGES).isfinite().all()
    assert (model[3].weight.detach()[removed] == 0).all()
    model.train()
    model(IMAGES).square().sum().backward()
    assert model[8].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": 1}, "weights=1.*from 2 to 16"),
        ({"activations": 17}, "activations=17.*from 2 to 16"),
        ({"norm": True}, "norm=True.*from 2 to 16"),
        ({"mode": "linaer"}, "did you mean 'linear'"),
        ({"overflow_rate": 1.0}, "share of the values"),
        ({"calibration": None}, "without images"),
        ({"calibration": []}, "no images"),
        ({"calibration": torch.full((2, 3, 8, 8), torch.nan)}, "NaN"),
        ({"calibration": torch.zeros(2, 3, 8, 8), "example": IMAGES[:2]}, r"input 0.*constant \(0\)"),
        ({"ignore": ("layer9*",)}, "matches no layer"),
    ],
)
def test_mistakes_leave_the_model_as_it_was(options, message):
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=message):
        fixed_point(model, **{"calibration": IMAGES, **options})
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert record(model) == ()


def test_nan_weights_and_illegal_orders():
    model = network()
    model[3].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"3.weight.*NaN"):
        fixed_point(model, calibration=IMAGES)
    with pytest.raises(InputTypeError):
        fixed_point("net", calibration=IMAGES)
    with pytest.raises(InputError, match="no convolution"):
        fixed_point(nn.Sequential(nn.ReLU()), calibration=IMAGES)
    model = network()
    fixed_point(model, calibration=IMAGES)
    with pytest.raises(IllegalOrder):
        fixed_point(model, calibration=IMAGES)
    with pytest.raises(IllegalOrder):
        ps.quantize(model, calibration=IMAGES)


@pytest.mark.parametrize("mode", ["linear", "minmax", "log", "tanh"])
def test_thirty_two_bits_are_what_fewer_are_compared_with(mode, tmp_path):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)
    model, images = nn.Sequential(*layers).eval(), torch.randn(16, 1, 8, 8)
    with torch.no_grad():
        wanted = model(images)
        fixed_point(model, weights=32, activations=32, norm=32, mode=mode, calibration=[images])
        assert (model(images) - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert ps.export(model, tmp_path / "net.onnx", example=images).checked == "onnxruntime"
