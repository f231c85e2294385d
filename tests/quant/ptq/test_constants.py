"""Activations and weights that are constant: they have an exact scale, and the result names them."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pintsize as ps
from pintsize.quant.grid.quantizer import FakeQuantize

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Dead(nn.Module):
    """Two convolutions with something between them that `kind` makes constant."""

    def __init__(self, kind):
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(3, 8, 1),
        )
        self.fc, self.kind = nn.Linear(8, 10), kind
        if kind == "zero weights":
            nn.init.zeros_(self.b.weight)
        elif kind == "zero channel":
            nn.init.zeros_(self.b.weight[3].detach())
        elif kind == "negative":
            nn.init.zeros_(self.a.weight)
            nn.init.constant_(self.a.bias, -0.37)
        elif kind == "tiny bias":
            nn.init.constant_(self.a.bias, -50.0)
            nn.init.uniform_(self.b.bias, -1e-4, 1e-4)
        else:
            nn.init.constant_(self.a.bias, -50.0)

    def forward(self, x):
        y = self.a(x)
        if self.kind == "gate":
            y = self.c(x) * torch.sigmoid(10 * y)
        elif self.kind == "ones":
            y = torch.sigmoid(-y)
        elif self.kind == "sum":
            y = y.relu() + self.c(x)
        elif self.kind == "concatenation":
            y = torch.cat([y.relu()[:, :4], self.c(x)[:, 4:]], 1)
        elif self.kind != "negative":
            y = y.relu()
        return self.fc(self.b(y).relu().mean((2, 3)))


KINDS = [
    "relu",
    "gate",
    "ones",
    "sum",
    "concatenation",
    "negative",
    "tiny bias",
    "zero weights",
    "zero channel",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy", "lsq", "best"])
def test_a_dead_part_is_quantized(kind, method):
    torch.manual_seed(1)
    model = Dead(kind).eval()
    wanted = model(X).detach()
    options = {"iterations": 2} if method == "best" else {}
    result = ps.quantize(model, calibration=[X], method=method, progress=False, **options)
    # where channels are equalized each has a constant of its own
    assert result.constants or result.equalized or kind in ("zero channel", "zero weights", "concatenation")
    with torch.no_grad():
        gap = float((model(X) - wanted).abs().max() / wanted.abs().max())
    assert gap < (1 / 255 if kind in ("relu", "ones", "negative", "tiny bias", "zero weights") else 0.05)


def test_four_bits_and_identical_images():
    torch.manual_seed(1)
    model = Dead("relu").eval()
    same = X[:1].expand(8, -1, -1, -1)
    wanted = model(same).detach()
    found = ps.quantize(model, calibration=[same], weights=4, activations=4, method="lsq", progress=False)
    assert any("relu 0" in where for where in found.constants)
    torch.testing.assert_close(model(same), wanted, rtol=0, atol=float(wanted.abs().max()) / 15)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("value", [0.37, -0.37, 1e-5, -123.0])
def test_a_constant_is_a_level(bits, signed, value):
    quantizer, x = FakeQuantize(bits, signed=signed), torch.full((3,), value)
    quantizer.set_constant(x[0])
    assert torch.equal(quantizer(x), x)


def test_dead_blocks_keep_their_nearest_rounding():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False), nn.Conv2d(8, 4, 1)
    ).eval()
    nn.init.constant_(model[0].bias, -50.0)
    nearest = copy.deepcopy(model)
    ps.quantize(nearest, calibration=[X], weights=4, edges=None, progress=False)
    ps.quantize(
        model, calibration=[X], weights=4, edges=None, learn_rounding=True, iterations=3, progress=False
    )
    for one, other in zip(model.modules(), nearest.modules(), strict=True):
        if isinstance(one, FakeQuantize) and one.axis >= 0:
            assert torch.equal(one.scale, other.scale)
    assert torch.equal(
        model[2].weight_quantizer.to_int(model[2].weight),
        nearest[2].weight_quantizer.to_int(nearest[2].weight),
    )


@pytest.mark.parametrize("mode", ["linear", "minmax", "log", "tanh"])
def test_fixed_point_takes_constants_too(mode):
    torch.manual_seed(1)
    model = Dead("relu").eval()
    wanted = model(X).detach()
    model.requires_grad_(False)
    found = ps.fixed_point(model, weights=16, activations=16, mode=mode, calibration=[X], progress=False)
    assert any("relu 0" in where for where in found.constants)
    assert float((model(X) - wanted).abs().max()) < 0.01 * float(wanted.abs().max())


def test_constant_images_are_a_mistake():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    with pytest.raises(ps.errors.InputError, match=r"input 0.*constant \(1\)"):
        ps.quantize(model, calibration=[torch.ones(4, 3, 8, 8)], progress=False)


def test_one_of_two_inputs_may_be_constant():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.c(F.relu(self.a(x) + self.b(torch.ones_like(x[:, :1]))))

    model = Two().eval()
    wanted = model(X).detach()
    ps.quantize(model, calibration=[X], progress=False)
    torch.testing.assert_close(model(X), wanted, rtol=0, atol=0.02 * float(wanted.abs().max()))
