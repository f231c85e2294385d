"""Equalisation, learned rounding, bias correction, re-estimated norms, and all together."""

import copy

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize import quant
from pintsize.errors import InputError
from pintsize.quant import FakeQuantize
from pintsize.quant.ptq import bias, equalize, rounding
from pintsize.quant.ptq.rounding import RoundingVariables


@pytest.fixture(scope="module")
def network():
    """A residual network that computes something: its norms know the images."""
    torch.manual_seed(0)
    model = ps.models.create("resnet-demo", num_classes=10, in_channels=1)
    images = smooth(128)
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(images)
    return model.eval()


def smooth(count, seed=0):
    coarse = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")


@torch.no_grad()
def error(model, reference, images):
    wanted = reference(images)
    return float((model(images) - wanted).square().sum() / wanted.square().sum())


def test_rounding_variables_start_at_the_float_weight_and_end_on_the_grid():
    quantizer = FakeQuantize(4, signed=True, channels=2, axis=0)
    quantizer.scale.copy_(torch.tensor([1.0, 0.5]))
    weight = torch.tensor([[0.3, -1.6], [0.4, 9.0]])
    soft = RoundingVariables(quantizer, weight)
    assert torch.allclose(soft(weight), torch.tensor([[0.3, -1.6], [0.4, 3.5]]), atol=1e-6)
    with torch.no_grad():
        soft.variables.copy_(torch.tensor([[5.0, 5.0], [-5.0, -5.0]]))
    assert soft.rounded().tolist() == [[1.0, -1.0], [0.0, 3.5]]  # up, up; down, clipped at 7 steps
    assert soft.indecision(2.0).item() == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        soft.variables.zero_()  # all at one half
    assert soft.indecision(2.0).item() == pytest.approx(1.0)


def test_blocks_are_residual_blocks_in_order(network):
    model = copy.deepcopy(network)
    quant.quantize(model, calibration=smooth(16))
    found = rounding.blocks(model, smooth(2))
    assert found[0] == "conv1"
    assert found[-1] == "fc"
    inside = [[name for name, _ in quant.weight_layers(model.get_submodule(path))] for path in found]
    assert max(map(len, inside)) <= 4
    covered = [
        f"{path}.{name}".strip(".") for path, names in zip(found, inside, strict=True) for name in names
    ]
    assert sorted(covered) == sorted(name for name, _ in quant.weight_layers(model))


def test_learned_rounding_beats_the_nearest(network):
    images = smooth(128)
    nearest, learned = copy.deepcopy(network), copy.deepcopy(network)
    quant.quantize(nearest, weights=3, calibration=images)
    result = quant.quantize(learned, weights=3, calibration=images, learn_rounding=True, iterations=40)
    unseen = smooth(64, seed=1)
    assert error(learned, network, unseen) < 0.8 * error(nearest, network, unseen)
    assert "conv1" not in result.rounded  # it has 8 bits
    for name in result.rounded:
        layer = learned.get_submodule(name)
        assert torch.allclose(layer.weight_quantizer(layer.weight), layer.weight, atol=1e-6)  # on the grid
    again = copy.deepcopy(network)
    quant.quantize(again, weights=3, calibration=images, learn_rounding=True, iterations=40)
    assert torch.equal(again(unseen), learned(unseen))


def test_equalisation_by_hand():
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[16.0], [1.0]]))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[1.0, 4.0]]))
    x = torch.tensor([[0.0], [1.0]])
    expected = model(x)
    assert equalize.equalize(model, [x]) == [("0", "2")]
    # ranges 16 and 1 against 1 and 4: s = √16/1, √4/4 up to a common factor, so 8 : 1
    ratio = (16 / model[0].weight[0, 0] / (1 / model[0].weight[1, 0])).item()
    assert ratio == pytest.approx(8.0)
    assert torch.allclose(model(x), expected)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_equalised_networks_compute_the_same(groups):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, groups=groups),
        nn.Conv2d(8, 2, 1),
        nn.ReLU6(),
        nn.Conv2d(2, 2, 1),
    ).eval()
    x = torch.randn(8, 2, 9, 9)
    with torch.no_grad():
        model[0].weight[1] *= 50
        expected = model(x)
        assert equalize.equalize(model, [x]) == [("0", "2"), ("2", "3")]  # ReLU6 is not homogeneous
        assert torch.allclose(model(x), expected, atol=1e-4)


def test_a_dead_channel_is_left_alone():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 1, 1)).eval()
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = -1
    before = model[0].bias[1].item()
    equalize.equalize(model, [torch.randn(4, 1, 3, 3)])
    assert model[0].bias[1].item() == before
    assert all(p.isfinite().all() for p in model.parameters())


def test_corrected_biases_keep_the_mean(network):
    images = smooth(128)
    plain, corrected = copy.deepcopy(network), copy.deepcopy(network)
    quant.quantize(plain, weights=3, calibration=images)
    quant.quantize(corrected, weights=3, calibration=images, correct_bias=True)
    with torch.no_grad():
        wanted = network(images).mean(0)
        assert (corrected(images).mean(0) - wanted).abs().max() < 0.1 * (
            plain(images).mean(0) - wanted
        ).abs().max()
    assert error(corrected, network, images) < error(plain, network, images)


def test_best_is_better_than_each_range_method(network):
    images = smooth(128)
    errors = {}
    for method in ("minmax", "mse", "best"):
        model = copy.deepcopy(network)
        quant.quantize(model, weights=4, calibration=images, method=method, iterations=40)
        errors[method] = error(model, network, smooth(64, seed=1))
    assert errors["best"] < 0.8 * min(errors["minmax"], errors["mse"])


def test_saved_and_loaded_after_best(network, tmp_path):
    model = copy.deepcopy(network)
    quant.quantize(model, weights=4, calibration=smooth(64), method="best", iterations=5)
    ps.save(model, tmp_path / "net.safetensors")
    assert torch.equal(ps.load(tmp_path / "net.safetensors")(smooth(8)), model(smooth(8)))


def test_norms_are_measured_anew():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5), nn.BatchNorm1d(2, track_running_stats=False))
    batches = [torch.randn(64, 2) * 3 + 5, torch.randn(64, 2)]
    assert quant.reestimate_norms(model, batches, images=None) == 1
    assert torch.allclose(model[0].running_mean, torch.stack([b.mean(0) for b in batches]).mean(0), atol=1e-5)
    assert torch.allclose(model[0].running_var, torch.stack([b.var(0) for b in batches]).mean(0), atol=1e-4)
    assert model[0].momentum == 0.1
    assert model.training
    left_over = [
        batches[0],
        batches[1][:2],
        batches[1][:1],
    ]  # two images weigh as two, one alone has no variance
    quant.reestimate_norms(model, left_over, images=None)
    assert torch.allclose(model[0].running_mean, torch.cat(left_over[:2]).mean(0), atol=1e-5)
    with pytest.raises(InputError, match="holds no images"):
        quant.reestimate_norms(model, [])


def test_iterations_must_be_positive(network):
    with pytest.raises(InputError, match="iterations=0"):
        quant.quantize(copy.deepcopy(network), calibration=smooth(8), method="best", iterations=0)


def test_progress_bar_on_demand(network, capsys):
    quant.quantize(copy.deepcopy(network), calibration=smooth(8), progress=True)
    assert "calibrate" in capsys.readouterr().err


def test_layers_that_run_twice_keep_their_bias():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(2, 2, 1)

        def forward(self, x):
            return self.a(torch.relu(self.a(x)))

    model = Twice()
    reference = copy.deepcopy(model)
    x = torch.randn(4, 2, 3, 3)
    quant.quantize(model, weights=2, edges=None, calibration=x)
    before = model.a.bias.clone()
    bias.correct_biases(model, reference, [x])
    assert torch.equal(model.a.bias, before)
