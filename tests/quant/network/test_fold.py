import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pintsize as ps
from pintsize.quant import fold_batchnorm
from pintsize.storage.record import record


def shaken(model):
    """`model` with batch norms that are far from identity."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                module.weight.data.uniform_(-1.5, 1.5, generator=generator)
                module.bias.data.uniform_(-0.5, 0.5, generator=generator)
    return model.eval()


@torch.no_grad()
def check(model, x, folded):
    plain = shaken(model)
    expected = plain(x)
    work = copy.deepcopy(plain)
    step = fold_batchnorm(work, x)
    assert (step.folded if step else []) == folded
    assert torch.allclose(work(x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    if step:
        again = copy.deepcopy(plain)
        step.apply(again)
        again.load_state_dict(work.state_dict())
        assert torch.equal(again(x), work(x))
    return work


def test_by_hand():
    layer, norm = nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, eps=0.0)
    layer.weight.data.fill_(3.0)
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(4.0)
    norm.weight.data.fill_(6.0)
    norm.bias.data.fill_(0.5)
    model = nn.Sequential(layer, norm).eval()
    fold_batchnorm(model, torch.ones(2, 1))
    assert layer.weight.item() == 9.0  # 3 · 6 / 2
    assert layer.bias.item() == -2.5  # (0 − 1) · 3 + 0.5
    assert isinstance(model[1], nn.Identity)
    assert [step.kind for step in record(model)] == ["fold"]


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2", "shufflenetv2-x0.5"])
def test_named_networks_fold_whole(name):
    model = ps.models.create(name, num_classes=4, stem="small")
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    work = check(model, torch.randn(2, 3, 32, 32), norms)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in work.modules())


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolution(groups):
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=groups), nn.BatchNorm2d(6))
    check(model, torch.randn(2, 4, 5, 5), ["1"])


def test_what_cannot_be_folded_stays():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm1 = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)
            self.twice, self.norm2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
            self.batch, self.norm3 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)
            self.good, self.norm4 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.first(x)
            x = x + self.norm1(x)  # the convolution has a second reader
            x = self.norm2(self.twice(x)) + self.twice(x)  # it runs twice
            x = self.norm3(self.batch(x))  # statistics of the batch
            return self.norm4(self.good(x))

    check(Net(), torch.randn(2, 2, 4, 4), ["norm4"])


class NormAct(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: the norm, a dropout, the activation."""

    def __init__(self, channels, activation=torch.relu):
        super().__init__(channels)
        self.activation, self.drop = activation, nn.Dropout2d(0.2)

    def forward(self, x):
        running = self.running_mean, self.running_var, self.weight, self.bias
        return self.activation(self.drop(F.batch_norm(x, *running, self.training, 0.1, self.eps)))


def stored(model):
    return {name: tensor.numel() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("activation", [torch.relu, F.silu, F.hardswish, nn.Identity()])
def test_a_norm_that_runs_its_activation_is_folded(activation):
    model = nn.Sequential(nn.Conv2d(2, 3, 1), NormAct(3, activation))
    work = check(model, torch.randn(2, 2, 4, 4), ["1"])
    assert all(
        not size for name, size in stored(work).items() if name.startswith("1.") and "tracked" not in name
    )


def test_an_activation_in_front_of_the_norm_keeps_it():
    check(nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), NormAct(3)), torch.randn(2, 2, 4, 4), [])


class Functional(nn.Module):
    """Norms without a module, one of them not behind a layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1, bias=False)
        for key in "abc":
            self.register_buffer(f"mean_{key}", torch.rand(3))
            self.register_buffer(f"variance_{key}", torch.rand(3) + 0.5)
        self.scale = nn.Parameter(torch.rand(3) - 0.5)

    def forward(self, x):
        x = F.relu(F.batch_norm(self.a(x), self.mean_a, self.variance_a, self.scale, None))
        x = F.batch_norm(x, self.mean_b, self.variance_b)
        return F.batch_norm(self.b(x), running_mean=self.mean_c, running_var=self.variance_c, eps=0.1)


def test_norms_in_a_forward_of_the_user_s_own():
    work = check(Functional(), torch.randn(2, 2, 4, 4), ["", ""])
    assert stored(work)["mean_b"] == 3  # behind a ReLU: it stays
    assert stored(work)["mean_a"] == stored(work)["variance_c"] == stored(work)["scale"] == 0


def test_statistics_of_the_batch_are_no_constants():
    class OfTheBatch(nn.BatchNorm2d):
        def forward(self, x):
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, True, 0.0, self.eps
            )

    check(nn.Sequential(nn.Conv2d(2, 3, 1), OfTheBatch(3)), torch.randn(2, 2, 4, 4), [])


def test_a_folded_network_is_copied_pickled_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    plain = shaken(nn.Sequential(nn.Conv2d(2, 3, 3), NormAct(3), nn.Conv2d(3, 2, 1)))
    model, x = copy.deepcopy(plain), torch.randn(4, 2, 6, 6)
    ps.quantize(model, calibration=x)
    ps.save(model, tmp_path / "net.safetensors")
    again = ps.load(tmp_path / "net.safetensors", model=plain).eval()
    others = again, copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    assert all(torch.equal(other(x), model(x)) for other in others)
    assert record(again) == record(model)


def test_norms_with_an_activation_are_folded_after_training_with_quantizers():
    torch.manual_seed(0)
    model, x = (
        shaken(nn.Sequential(nn.Conv2d(2, 4, 3), NormAct(4), nn.Conv2d(4, 2, 1))),
        torch.randn(4, 2, 6, 6),
    )
    ps.quantize(model, calibration=x, method="lsq")
    with torch.no_grad():
        before = model(x)
        assert fold_batchnorm(model, x).folded == ["1"]
        assert float((model(x) - before).abs().max()) < 0.02 * float(before.abs().max())


def test_a_shared_convolution_weight_stays():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    model[2].weight = model[0].weight
    check(model, torch.randn(2, 2, 4, 4), [])
