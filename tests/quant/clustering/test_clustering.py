import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize import quant
from pintsize.deploy import open_runtime
from pintsize.errors import IllegalOrder, InputError
from pintsize.pruning.weights.masks import masks_of
from pintsize.quant.clustering import clustered, kmeans
from pintsize.storage.record import record


def distinct(weight):
    return len(weight.detach().unique())


@pytest.mark.parametrize("seed", range(4))
def test_kmeans_is_the_optimum_of_all_partitions(seed):
    values = np.random.default_rng(seed).normal(size=9)
    ordered = np.sort(values)

    def error(cuts):
        return sum(((part - part.mean()) ** 2).sum() for part in np.split(ordered, cuts))

    best = min(error(cuts) for cuts in itertools.combinations(range(1, 9), 2))
    book = kmeans.centroids(values, 3)
    found = ((values - book[kmeans.nearest(values, book)]) ** 2).sum()
    assert found == pytest.approx(best)


def squared_error(values, book):
    return ((values - book[kmeans.nearest(values, book)]) ** 2).sum()


@pytest.mark.parametrize("k", [2, 6, 17])
def test_kmeans_of_more_values_than_the_table_holds_is_next_to_exact(monkeypatch, k):
    values = np.random.default_rng(0).laplace(size=30000)
    exact = squared_error(values, kmeans.centroids(values, k))
    monkeypatch.setattr(kmeans, "_CELLS", 1000 * k)
    found = squared_error(values, kmeans.centroids(values, k))
    assert exact * (1 - 1e-12) <= found < exact * (1 + 2e-3)  # groups of 30


def test_kmeans_counts_equal_values():
    values = np.repeat([0.0, 1.0, 4.0, 5.0], [1, 3, 2, 100])
    assert kmeans.centroids(values, 2).tolist() == pytest.approx([0.75, 508 / 102])
    assert kmeans.centroids(np.array([1.0, 1.0, 2.0]), 5).tolist() == [1.0, 2.0]


def test_by_hand():
    model = nn.Sequential(nn.Linear(6, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 1.0, 1.2, -3.0, 0.0, -3.4]]))
    result = quant.cluster(model, k=2)
    assert torch.allclose(model[0].weight, torch.tensor([[0.0, 1.1, 1.1, -3.2, 0.0, -3.2]]))
    (layer,) = result.layers
    assert (layer.levels, layer.codebooks) == (3, 1)  # zero besides the two
    assert layer.bytes == 3 * 4 + 2  # three floats, six codes of two bits
    assert layer.error == pytest.approx((4 * 0.01 + 2 * 0.04 - 2 * 0.01) / (1 + 1.44 + 9 + 11.56))


@pytest.mark.parametrize(("scope", "books"), [("layer", 1), ("channel", 4), ("global", 1)])
def test_scopes(scope, books):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 4))
    plain = copy.deepcopy(model)
    result = quant.cluster(model, k=3, scope=scope)
    assert [layer.codebooks for layer in result.layers] == [books, books]
    weight = model[0].weight
    if scope == "channel":
        assert all(distinct(row) == 3 for row in weight)
    elif scope == "layer":
        assert distinct(weight) == 3
    both = torch.cat([weight.flatten(), model[3].weight.flatten()])
    assert (distinct(both) == 3) is (scope == "global")
    assert (weight - plain[0].weight).abs().max() < plain[0].weight.abs().max()


def test_bits_hold_zero_if_it_occurs():
    model = nn.Sequential(nn.Linear(40, 4))
    assert quant.cluster(copy.deepcopy(model), bits=3).layers[0].levels == 8
    with torch.no_grad():
        model[0].weight[0] = 0
    assert quant.cluster(model, bits=3).layers[0].levels == 8
    assert (model[0].weight[0] == 0).all()


def test_each_centroid_gets_the_summed_gradient_and_zeros_none():
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0, 1.0, 2.0]]))
    quant.cluster(model, k=2)
    model(torch.tensor([[10.0, 20.0, 30.0, 40.0]])).sum().backward()
    assert model[0].weight.grad.tolist() == [[40.0, 0.0, 40.0, 40.0]]


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_training_moves_centroids_and_keeps_the_clusters(optimizer):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2)
    )
    with torch.no_grad():
        model[0].weight[:2] = 0
    quant.cluster(model, k=4)
    before = model[0].weight.detach().clone()
    steps = optimizer(model.parameters(), 1e-3, weight_decay=0.01)
    x, y = torch.randn(64, 1, 4, 4), torch.randint(2, (64,))
    losses = []
    for _ in range(20):
        steps.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        steps.step()
        for layer in clustered.clustered_layers(model).values():
            layer.after_optimizer_step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    after = model[0].weight.detach()
    assert not torch.equal(after, before)
    assert (after[:2] == 0).all()
    for value in before.unique():
        assert distinct(after[before == value]) == 1


def test_saved_as_codebook_and_codes(tmp_path):
    model = ps.models.create("resnet-demo", num_classes=4)
    x = torch.randn(2, 3, 32, 32)
    ps.save(model, tmp_path / "plain.safetensors")
    quant.cluster(model, bits=4)
    ps.save(model, tmp_path / "net.safetensors")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("plain", "net")]
    assert sizes[1] < 0.3 * sizes[0]
    again = ps.load(tmp_path / "net.safetensors")
    assert torch.equal(again(x), model.eval()(x))
    assert [step.kind for step in record(again)] == ["cluster"]
    other = copy.deepcopy(again)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), again(x))
    assert isinstance(again.conv1, nn.Conv2d)


def test_a_state_dict_that_does_not_fit():
    model = nn.Sequential(nn.Linear(8, 8))
    quant.cluster(model, k=3)
    before = model[0].weight.detach().clone()
    wrong = model.state_dict() | {"0.weight_codebook": torch.zeros(1, 9)}
    with pytest.raises(RuntimeError, match="does not fit"):
        model.load_state_dict(wrong)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({"0.bias": torch.zeros(8)})
    assert torch.equal(model[0].weight, before)


def test_norms_and_patterns():
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    nn.init.uniform_(model[1].weight)
    result = quant.cluster(model, k=2, norms=True, ignore=["2"])
    assert [layer.name for layer in result.layers] == ["0", "1"]
    assert distinct(model[1].weight) == 2
    assert model(torch.randn(2, 2, 5, 5)).isfinite().all()


def test_after_folding_and_before_quantization():
    model = ps.models.create("resnet-demo", num_classes=4)
    x = torch.randn(4, 3, 32, 32)
    quant.fold_batchnorm(model.eval(), x)
    quant.cluster(model, k=5)
    with pytest.raises(InputError, match="share values"):
        quant.quantize(model, calibration=x, method="best")
    quant.quantize(model, calibration=x)
    assert [step.kind for step in record(model)] == ["fold", "cluster", "quantize"]
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    with pytest.raises(IllegalOrder, match="'cluster' after 'cluster'"):
        quant.cluster(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k=0"),
        ({"k": 256}, "k=256"),
        ({"bits": 9}, "bits=9"),
        ({"k": 3, "bits": 3}, "both"),
        ({"scope": "layers"}, "did you mean 'layer'"),
        ({"ignore": ["conv9"]}, "matches no layer"),
    ],
)
def test_mistakes(options, message):
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(InputError, match=message):
        quant.cluster(model, **options)
    assert type(model[0]) is nn.Linear


def test_nan_weights_and_no_layers():
    model = nn.Sequential(nn.Linear(3, 3))
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="layer 0"):
        quant.cluster(model)
    with pytest.raises(InputError, match="no weights"):
        quant.cluster(nn.ReLU())


def trained_norms(model: nn.Module) -> nn.Module:
    """Norms as training leaves them: factors of both signs."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean)
    return model.eval()


def test_norms_are_clustered_by_default():
    model = trained_norms(nn.Sequential(nn.Conv2d(2, 32, 3), nn.BatchNorm2d(32)))
    quant.cluster(model, k=5)
    assert distinct(model[1].weight) == 5
    other = trained_norms(nn.Sequential(nn.Conv2d(2, 32, 3), nn.BatchNorm2d(32)))
    assert [layer.name for layer in quant.cluster(other, k=5, norms=False).layers] == ["0"]
    assert distinct(other[1].weight) == 32


@pytest.mark.parametrize("scope", ["layer", "channel", "global"])
@pytest.mark.parametrize("method", ["mse", "lsq"])
def test_sparse_then_clustered_then_quantized(scope, method, tmp_path):
    torch.manual_seed(0)
    model = trained_norms(ps.models.create("resnet-demo", num_classes=4))
    x = torch.randn(4, 3, 16, 16)
    ps.sparsify(model, density=0.2)
    masks = masks_of(model)
    quant.cluster(model, k=5, scope=scope)
    zeros = {
        name: module.weight == 0 for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
    }
    with torch.no_grad():
        before = model(x)
    result = quant.quantize(model, calibration=x, method=method, progress=False)
    assert [step.kind for step in record(model)] == ["mask", "cluster", "fold", "quantize"]
    with torch.no_grad():
        after = model(x)
        assert float((after - before).abs().max()) < 0.05 * float(before.abs().max())
    for name, gone in zeros.items():
        layer = model.get_submodule(name)
        assert (layer.weight[gone] == 0).all()
        assert not layer.weight[gone].signbit().any()
        assert max(distinct(row) for row in layer.weight) <= 6
        assert result.codebooks[name] == len(layer.weight)
    assert "with shared values" in result.__rich__().caption
    assert all(torch.equal(mask, masks_of(model)[name]) for name, mask in masks.items())
    for suffix in ("safetensors", "pint"):
        path = tmp_path / f"net.{suffix}"
        ps.save(model, path) if suffix == "safetensors" else ps.export(model, path)
        with torch.no_grad():
            assert torch.equal(ps.load(path)(x), after)
    with open_runtime(ps.export(model, tmp_path / "net.onnx", example=x).path) as runtime:
        assert float((torch.as_tensor(runtime(x)) - after).abs().max()) < 1e-4 * float(after.abs().max() + 1)


def test_folding_gives_each_channel_the_codebook_times_its_factor():
    model = trained_norms(nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), nn.BatchNorm2d(2, eps=0.0)))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[[[1.0, 2.0], [0.0, 1.0]]], [[[2.0, 2.0], [0.0, 1.0]]]]))
        model[1].weight.copy_(torch.tensor([2.0, -3.0]))
        model[1].running_var.copy_(torch.tensor([4.0, 1.0]))
    quant.cluster(model, k=2, norms=False)
    quant.fold_batchnorm(model, torch.rand(1, 1, 3, 3))
    assert clustered.codebook(model[0]).tolist() == [[0.0, 1.0, 2.0], [0.0, -3.0, -6.0]]
    assert model[0].weight.flatten(1).tolist() == [[1.0, 2.0, 0.0, 1.0], [-6.0, -6.0, 0.0, -3.0]]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("scope", ["layer", "channel"])
def test_a_transposed_layer_has_codebooks_by_output_channel(scope, groups, tmp_path):
    torch.manual_seed(0)

    def plain() -> nn.Module:
        return nn.Sequential(nn.ConvTranspose2d(8, 12, 3, groups=groups), nn.BatchNorm2d(12))

    model, x = trained_norms(plain()), torch.rand(2, 8, 5, 5)
    quant.cluster(model, k=3, scope=scope)
    with torch.no_grad():
        wanted = model(x)
        quant.fold_batchnorm(model, x)
        assert torch.allclose(model(x), wanted, atol=1e-5)
    assert clustered.codebooks(model[0]) == 12
    rows = clustered.by_channel(model[0].weight.detach(), model[0])
    assert rows.shape == (12, 8 // groups * 9)
    assert max(distinct(row) for row in rows) == 3
    ps.save(model, tmp_path / "net.safetensors")
    again = ps.load(tmp_path / "net.safetensors", model=plain())
    assert torch.equal(again(x), model(x))


def test_codebooks_of_input_channels_keep_their_norm():
    """As earlier versions made them of transposed layers: a factor for each output channel would part their values."""
    model, x = (
        trained_norms(nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6))),
        torch.rand(1, 4, 5, 5),
    )
    clustered.add_clusters(model[0], levels=1, zeros=False, rows=4)
    assert quant.fold_batchnorm(model, x) is None


def test_training_after_all_three_keeps_zeros_and_sharing():
    torch.manual_seed(0)
    model = trained_norms(ps.models.create("resnet-demo", num_classes=4))
    x = torch.randn(4, 3, 16, 16)
    ps.sparsify(model, density=0.3)
    quant.cluster(model, k=3)
    quant.quantize(model, calibration=x, progress=False)
    before = {
        name: layer.weight.detach().clone() for name, layer in clustered.clustered_layers(model).items()
    }
    steps = torch.optim.Adam(model.parameters(), 1e-3)
    model.train()(x).square().mean().backward()
    steps.step()
    for name, layer in clustered.clustered_layers(model).items():
        layer.after_optimizer_step()
        after = layer.weight.detach()
        assert (after[before[name] == 0] == 0).all()
        assert max(distinct(row) for row in after) <= 4
        assert not torch.equal(after, before[name])


class NormAndActivation(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


def test_a_clustered_norm_inside_a_module_is_folded(tmp_path):
    def plain() -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 8, 3), NormAndActivation(8), nn.Conv2d(8, 2, 1))

    torch.manual_seed(0)
    model, x = trained_norms(plain()), torch.randn(4, 2, 6, 6)
    quant.cluster(model, k=3)
    with torch.no_grad():
        wanted = model(x)
        quant.quantize(model, calibration=x, progress=False)
        assert torch.allclose(model(x), wanted, atol=0.05 * float(wanted.abs().max()))
    for suffix in ("safetensors", "pint"):
        path = tmp_path / f"net.{suffix}"
        ps.save(model, path) if suffix == "safetensors" else ps.export(model, path)
        assert torch.equal(ps.load(path, model=plain())(x), model(x))
