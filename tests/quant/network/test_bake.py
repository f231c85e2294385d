"""Weights that layers compute from their parameters, computed once."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm

import pintsize as ps
from pintsize.quant.network.bake import bake, copied
from pintsize.storage.record import record


def standardised(weight):
    dims = tuple(range(1, weight.dim()))
    return (weight - weight.mean(dims, keepdim=True)) / (weight.std(dims, keepdim=True) + 1e-3)


class StdConv1d(nn.Conv1d):
    def forward(self, x):
        return F.conv1d(x, standardised(self.weight), self.bias, self.stride, self.padding)


class StdConv2d(nn.Conv2d):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gain = nn.Parameter(torch.full((self.out_channels, 1, 1, 1), 0.5))

    def forward(self, x):  # with padding of its own, as "same" convolutions have
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), standardised(self.weight) * self.gain, self.bias, self.stride)


class StdTransposed(nn.ConvTranspose2d):
    def forward(self, x):
        return F.conv_transpose2d(x, standardised(self.weight), self.bias, self.stride)


class StdLinear(nn.Linear):
    def forward(self, x):
        return F.linear(input=x, weight=F.normalize(self.weight, dim=1), bias=self.bias)


def old_weight_norm(layer):
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


def twice_pruned(layer):
    prune.l1_unstructured(layer, "weight", 0.3)
    prune.random_unstructured(layer, "weight", 0.3)
    prune.random_unstructured(layer, "bias", 0.5)
    return layer


IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CASES = {  # the layer, what it is given, where its weight is computed
    "conv1d": (lambda: StdConv1d(3, 6, 3), IMAGES[:, :, 0], "forward"),
    "conv2d": (lambda: StdConv2d(3, 6, 3, stride=2), IMAGES, "forward"),
    "transposed": (lambda: StdTransposed(3, 6, 2, stride=2), IMAGES, "forward"),
    "linear": (lambda: StdLinear(8, 6, bias=False), IMAGES, "forward"),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Conv2d(3, 6, 3)), IMAGES, "around"),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(8, 6)), IMAGES, "around"),
    "old weight norm": (lambda: old_weight_norm(nn.Conv2d(3, 6, 3)), IMAGES, "around"),
    "old spectral norm": (lambda: spectral_norm(nn.Conv2d(3, 6, 3)), IMAGES, "around"),
    "masks": (lambda: twice_pruned(nn.Conv2d(3, 6, 3)), IMAGES, "around"),
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_the_weight_is_a_plain_one_and_the_network_computes_the_same(case):
    make, x, where = CASES[case]
    torch.manual_seed(0)
    model = nn.Sequential(make(), nn.ReLU()).eval()
    expected = model(x)
    work = copied(model)
    step = bake(work, x)
    assert step.layers == {"0": where}
    assert torch.allclose(work(x), expected, atol=1e-6)
    assert set(work[0]._parameters) >= {"weight", "bias"}
    assert isinstance(work[0].weight, nn.Parameter)
    work[0].weight.mul_(2)
    if work[0].bias is not None:
        work[0].bias.mul_(2)
    assert torch.allclose(work(x), 2 * expected, atol=1e-5)  # nothing is computed from it any more
    assert torch.equal(model(x), expected)
    assert bake(work, x) is None


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_it_is_quantized_saved_and_loaded(case, tmp_path):
    make, x, _ = CASES[case]
    torch.manual_seed(0)
    model = nn.Sequential(make(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)).eval()
    model(x)
    expected, plain = model(x), copied(model)
    result = ps.quantize(model, calibration=x, progress=False)
    assert [layer.name for layer in result.layers] == ["0", "3"]
    assert float((model(x) - expected).abs().max()) < 0.05 * float(expected.abs().max())
    assert [step.kind for step in record(model)] == ["bake", "quantize"]
    ps.save(model, tmp_path / "net.safetensors")
    again = ps.load(tmp_path / "net.safetensors", model=plain).eval()
    for other in (again, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))


def test_masks_keep_their_zeros_as_if_made_permanent():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    removed = copy.deepcopy(model)
    for one in (model, removed):
        prune.l1_unstructured(one[2], "weight", 0.5)
    prune.remove(removed[2], "weight")
    model(IMAGES)  # with gradients: the masked weight is part of a graph, which cannot be copied
    for one in (removed, model):
        ps.quantize(one, calibration=IMAGES, progress=False)
    assert torch.equal(model(IMAGES), removed(IMAGES))
    assert int((model[2].weight == 0).sum()) == model[2].weight.numel() // 2


def test_a_norm_behind_it_is_folded_and_it_can_be_trained():
    torch.manual_seed(0)
    model = nn.Sequential(StdConv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()).eval()
    assert ps.quantize(copy.deepcopy(model), calibration=IMAGES, progress=False).folded == ("1",)
    ps.quantize(model, calibration=IMAGES, method="lsq", progress=False)
    before = model[0].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.train()(IMAGES).square().mean().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, before)
    assert [step.kind for step in record(model)] == ["bake", "quantize"]


def test_masks_of_our_own_stay_masks():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    ps.sparsify(model, density=0.5)
    assert bake(model.eval(), IMAGES) is None


def test_two_products_in_one_layer_stay():
    class Both(StdConv2d):
        def forward(self, x):
            return super().forward(x) + F.conv2d(x, self.weight - 1, padding=1)

    model = nn.Sequential(Both(3, 6, 3), nn.ReLU()).eval()
    assert bake(model, IMAGES) is None
    kept = ps.quantize(nn.Sequential(*model, nn.Conv2d(6, 2, 1)), calibration=IMAGES, progress=False)
    assert [layer.name for layer in kept.in_float] == ["0", "2"]
