"""Networks that write in place: quantized and trained as the same networks written otherwise."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pintsize as ps
from pintsize.quant.grid import straight_through
from pintsize.quant.grid.lsq import _Learned

X = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A block, written in place or not, with an activation of its own."""

    def __init__(self, kind, inplace, activation=F.relu):
        super().__init__()
        self.kind, self.inplace, self.activation = kind, inplace, activation
        self.a, self.b, self.c = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8))
        self.norm, self.gate, self.fc = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x):
        x = self.activation(self.norm(self.a(x)), inplace=self.inplace)
        y = getattr(self, self.kind)(x, self.b(x))
        return self.fc(self.c(y).mean((2, 3)))

    def iadd(self, x, y):
        if self.inplace:
            y += x
        else:
            y = y + x
        return self.activation(y, inplace=self.inplace)

    def add_statements(self, x, y):
        if not self.inplace:
            return (y + x).relu()
        y.add_(x)
        y.relu_()
        return y

    def mul_statement(self, x, y):
        gate = torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        if not self.inplace:
            return y * gate
        y.mul_(gate)
        return y

    def relu_statement(self, _x, y):
        if not self.inplace:
            return F.relu(y)
        F.relu_(y)
        return y


KINDS = ["iadd", "add_statements", "mul_statement", "relu_statement"]
ACTIVATIONS = [F.relu, F.silu, F.hardswish, F.leaky_relu, F.relu6]


def quantized(*how, **options):
    torch.manual_seed(0)
    model = Net(*how).eval()
    return model, ps.quantize(model, calibration=[X], progress=False, **options)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_network_written_otherwise(kind, activation, bits):
    gradients, outputs = [], []
    for inplace in (False, True):
        model, _ = quantized(kind, inplace, activation, method="lsq", weights=bits, activations=bits)
        outputs.append(model(X).detach())
        model.train()
        F.cross_entropy(model(X), torch.arange(8) % 5).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=0)
    assert len(gradients[0]) == len(gradients[1])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_in_place_is_quantized(kind):
    (one, told), (other, wanted) = (quantized(kind, inplace) for inplace in (True, False))
    assert [a.scale for a in told.activations] == [a.scale for a in wanted.activations]
    assert torch.equal(one(X), other(X))


def test_a_sum_written_into_out():
    class Out(Net):
        def forward(self, x):
            x = self.a(x).relu()
            y = self.b(x)
            y = torch.add(y, x, out=y) if self.inplace and not torch.is_grad_enabled() else y + x
            return self.fc(self.c(y).mean((2, 3)))

    results = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model = Out("iadd", inplace).eval()
        ps.quantize(model, calibration=[X], progress=False)
        with torch.no_grad():
            results.append(model(X))
    assert torch.equal(*results)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("fused", [False, True])
def test_the_gradient_of_a_scale_whose_result_is_overwritten(axis, fused):
    scale = torch.full((3,) if axis >= 0 else (), 0.02)
    zero, low = torch.zeros(scale.shape, dtype=torch.int32), -127 if axis >= 0 else 0
    found = []
    for overwrite in (False, True):
        x, s = X.clone().requires_grad_(), scale.clone().requires_grad_()
        if fused:
            y = _Learned.apply(x, s, zero, low, 127, axis, 0.1)
        else:
            y = straight_through.quantize(x, s, zero, qmin=low, qmax=127, axis=axis, factor=0.1)
        y = y.add_(1.0) if overwrite else y + 1.0
        found.append(torch.autograd.grad(y.square().sum(), [x, s]))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
