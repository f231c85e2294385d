"""The integer reference: its arithmetic by hand, and networks that compute the same in integers as simulated."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pintsize as ps
from pintsize.errors import InputError, InputTypeError, OperationError
from pintsize.quant import compare_with_integers, exact_simulation
from pintsize.quant.integer import rules as integer_rules
from pintsize.quant.integer.rules import Integers, rescale
from pintsize.quant.integer.run import run_integers


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_rescaling_by_hand():
    values = torch.tensor([7, -7, 5, 6, 1000, -3])
    assert rescale(values, torch.tensor(0.5, dtype=torch.float64)).tolist() == [4, -4, 2, 3, 500, -2]
    assert rescale(values, torch.tensor(4.0, dtype=torch.float64)).tolist() == [28, -28, 20, 24, 4000, -12]
    assert rescale(values, torch.tensor(1e-30, dtype=torch.float64)).tolist() == [0] * 6


@pytest.mark.parametrize("exponent", [-24, -9, -1, 0, 3, 20])
def test_rescaling_is_within_a_multiplier_of_31_bits(exponent):
    values = torch.randint(-(2**27), 2**27, (2000,), generator=generator())
    ratio = (1 + torch.rand((), generator=generator(1), dtype=torch.float64)) * 2.0**exponent
    exact = values.double() * ratio
    assert ((rescale(values, ratio) - exact).abs() <= 0.5 + exact.abs() * 2.0**-31).all()


def test_a_convolution_by_hand():
    """Weights 2 and −1 at scale 0.5, input at 0.1: sums at 0.05, the bias 0.3 is 6 of those."""
    x = Integers(torch.tensor([[[[3]], [[10]]]]), torch.tensor(0.1, dtype=torch.float64))
    weight = Integers(torch.tensor([[[[2]], [[-1]]]]), torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64))
    rule = integer_rules.RULES["convolution"]
    options = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    found = rule(torch.ops.aten.convolution.default, x, weight, torch.tensor([0.3]), *options)
    assert found.values.flatten().tolist() == [3 * 2 - 10 + 6]
    assert found.to_float().item() == pytest.approx(0.1)


class Everything(nn.Module):
    """Residual sum, gate, concatenation, pools, transposed and depthwise convolutions, two linears."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 8, 1)
        self.gate = nn.Linear(8, 8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.last = nn.Conv2d(14, 8, 3)
        self.head = nn.Linear(8 * 9, 5)

    def forward(self, x):
        x = F.relu6(self.stem(x))
        y = F.relu(self.depthwise(x), inplace=True)
        y = self.point(y)
        y = F.relu(y + x)
        gate = torch.sigmoid(self.gate(y.mean((2, 3))))
        y = y * gate[:, :, None, None]
        z = F.avg_pool2d(self.up(y), 2)
        y = torch.cat([y, z], 1)
        y = F.max_pool2d(self.last(y), 2)
        return self.head(y.flatten(1))


@pytest.mark.parametrize("bits", [(8, 8), (4, 8), (1, 8), (2, 4)])
def test_every_kind_of_operation_agrees(bits):
    torch.manual_seed(0)
    model = Everything().eval()
    x = torch.randn(16, 3, 8, 8)
    ps.quantize(model, weights=bits[0], activations=bits[1], calibration=x)
    found = compare_with_integers(model, x)
    assert found.images == 16
    assert found.agreement == 100
    assert found.max_relative_error < 1e-6
    assert found.max_steps == 0
    assert found.float_ops == ("sigmoid",)


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2", "shufflenetv2-x0.5"])
def test_named_networks_agree(name):
    torch.manual_seed(0)
    model = ps.models.create(name, stem="small").train()
    x = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        for _ in range(3):
            model(x)  # statistics of norms that are not those of initialisation
    model.eval()
    ps.quantize(model, calibration=x)
    found = compare_with_integers(model, x)
    assert found.max_relative_error < 1e-6
    assert found.max_steps == 0
    assert found.float_ops == ()
    single = compare_with_integers(model, x, dtype=torch.float32)
    assert single.max_relative_error < 1e-6  # no result is so near a threshold that float32 sums cross it
    assert single.different == 0


def test_a_coarse_multiplier_is_seen(monkeypatch):
    torch.manual_seed(0)
    model = Everything().eval()
    x = torch.randn(8, 3, 8, 8)
    ps.quantize(model, calibration=x)
    monkeypatch.setattr(integer_rules, "_FRACTION", 7)
    found = compare_with_integers(model, x)
    assert found.max_steps >= 1
    assert found.different > 1


def test_a_trained_network_with_norms_folded_afterwards():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    ).eval()
    x = torch.randn(8, 3, 8, 8)
    ps.quantize(model, weights=4, calibration=x, method="lsq")
    assert compare_with_integers(model, x).float_ops != ()  # the norm
    ps.quant.fold_batchnorm(model, x[:2])
    found = compare_with_integers(model, x)
    assert found.float_ops == ()
    assert found.max_relative_error < 1e-6


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    x = torch.randn(4, 3, 6, 6)
    ps.quantize(model, calibration=x, outputs=True)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    results = run_integers(model, x)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert results.integer.shape == results.simulated.shape == (4, 4, 4, 4)


def test_a_sum_of_more_than_32_bits():
    rule = integer_rules.RULES["mm"]
    x = Integers(torch.full((1, 2**17), 255), torch.tensor(1.0, dtype=torch.float64))
    weight = Integers(torch.full((2**17, 1), 127), torch.ones(1, 1, dtype=torch.float64))
    with pytest.raises(integer_rules.DoesNotFit, match="32 bits"):
        rule(torch.ops.aten.mm.default, x, weight)
    model = nn.Sequential(nn.Linear(2**17, 1)).eval()
    model[0].weight.data.fill_(1.0)
    inputs = torch.full((2, 2**17), 1.0)
    inputs[0, 0] = 0
    ps.quantize(model, calibration=inputs, method="minmax")
    with pytest.raises(OperationError, match="32 bits"):
        run_integers(model, inputs)


def test_the_exact_simulation_is_another_network_of_exact_multiples():
    torch.manual_seed(0)
    model = Everything().eval()
    x = torch.randn(8, 3, 8, 8)
    ps.quantize(model, calibration=x)
    exact = exact_simulation(model)
    assert {tensor.dtype for tensor in exact.parameters()} == {torch.float64}
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    layer = exact.point
    steps = layer.weight / layer.weight_quantizer.scale[:, None, None, None]
    assert (steps - steps.round()).abs().max() < 1e-9
    own = model.point.weight / model.point.weight_quantizer.scale[:, None, None, None]
    assert (own - own.round()).abs().max() > 0.1
    assert torch.allclose(exact(x.double()).float(), model(x), atol=0.05)
    with pytest.raises(InputError, match="not quantized"):
        exact_simulation(Everything())


def test_mistakes():
    with pytest.raises(InputTypeError):
        compare_with_integers("net", torch.zeros(1, 3, 8, 8))
    plain = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(InputError, match="not quantized"):
        compare_with_integers(plain, torch.zeros(1, 3, 8, 8))
    ps.quantize(plain, calibration=torch.randn(2, 3, 8, 8))
    with pytest.raises(InputError, match="no images"):
        compare_with_integers(plain, [])
