"""Any `nn.Module` works in every call: kinds of network × verbs."""

import copy

import pytest
import torch
from torch.utils._pytree import tree_leaves

import pintsize as ps
from kinds import KINDS
from pintsize.data.batches import example_of

QUIET = {"progress": False}
TRAINING = {"epochs": 1, "lr": 0.01, "precision": "fp32", **QUIET}


@pytest.fixture(scope="module", params=KINDS)
def known(request):
    """A kind of network with batches of norms that have seen data, its data and an example."""
    kind = KINDS[request.param]
    torch.manual_seed(0)
    batches = [kind.batch(8) for _ in range(3)]
    task = kind.task() if callable(kind.task) else kind.task
    data = ps.data.from_loaders(batches, batches, batches, task=task)
    model = kind.make()
    ps.train(model, data, **TRAINING)
    return model, data, example_of(data.val, model)


@pytest.fixture
def network(known):
    model, data, example = known
    return copy.deepcopy(model), data, example


def outputs(model, example):
    given = example if isinstance(example, tuple) else (example,)
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(model.eval()(*given)) if isinstance(leaf, torch.Tensor)]


def test_train_lowers_the_loss(network):
    model, data, _ = network
    history = ps.train(model, data, **{**TRAINING, "epochs": 3})
    assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_evaluate_gives_the_metric(network):
    model, data, _ = network
    value = ps.evaluate(model, data.val)
    assert value == value
    assert value == ps.evaluate(model, data.val.for_task(None), task=data.task)


def test_profile_and_groups(network):
    model, _, example = network
    assert ps.profile(model, example).macs > 0
    assert ps.channel_groups(model, example)


@pytest.mark.parametrize("importance", ["l2", "taylor"])
def test_prune_halves_and_trains_on(network, importance):
    model, data, example = network
    before = ps.profile(model, example).macs
    ps.prune(model, example, macs=0.5, importance=importance, data=data.train)
    assert ps.profile(model, example).macs < 0.6 * before
    history = ps.train(model, data, **TRAINING)
    assert history[0]["train_loss"] == history[0]["train_loss"]


@pytest.mark.parametrize("importance", ["magnitude", "snip"])
def test_sparsify(network, importance):
    model, data, _ = network
    found = ps.sparsify(model, density=0.5, importance=importance, data=data, scope="local")
    assert abs(found.density - 0.5) < 0.01
    ps.train(model, data, **TRAINING)


def test_sensitivity_and_layer_importance(network):
    model, data, _ = network
    scan = ps.sensitivity(model, data, ratios=(0.5,), level="filter", **QUIET)
    assert scan.curves
    assert scan.metric == data_metric(data).name
    assert ps.layer_importance(model, data, ratios=(0.5,), **QUIET).without.curves


def data_metric(data):
    return ps.tasks.task_of(None, data).judged()


def test_rounds_and_attention(network):
    model, data, example = network
    other = copy.deepcopy(model)
    layer = next(name for name, module in model.named_modules() if type(module).__name__.startswith("Conv"))
    found = ps.prune_rounds(
        model,
        data,
        ratios={layer: 0.25},
        rounds=1,
        epochs=1,
        lr=0.01,
        precision="fp32",
        measure=False,
        **QUIET,
    )
    assert len(found.rounds) == 2
    ps.prune_by_attention(other, data, attention_epochs=1, keep_first=False, precision="fp32", **QUIET)
    assert all(leaf.isfinite().all() for leaf in outputs(other, example))


def test_cluster_and_fixed_point(network):
    model, data, example = network
    other = copy.deepcopy(model)
    ps.cluster(model, k=8)
    ps.fixed_point(other, calibration=data.train, example=example, **QUIET)
    for changed in (model, other):
        assert all(leaf.isfinite().all() for leaf in outputs(changed, example))


def test_quantize_export_verify_save_load(network, tmp_path):
    model, data, example = network
    start = copy.deepcopy(model)
    ps.quantize(model, calibration=data.train, example=example, **QUIET)
    ps.export(model, tmp_path / "net.onnx", example=example)
    found = ps.verify(tmp_path / "net.onnx", model, data.val, repeats=1)
    assert found.ok
    if data.task != "classification":
        assert found.metric_name == data_metric(data).name
        with ps.open_runtime(tmp_path / "net.onnx") as runtime:
            assert ps.evaluate(runtime, data.val) == pytest.approx(found.metric)
    ps.save(model, tmp_path / "net.safetensors")
    read = ps.load(tmp_path / "net.safetensors", model=start)
    for a, b in zip(outputs(model, example), outputs(read, example), strict=True):
        assert torch.equal(a, b)


def test_quantization_aware_training(network):
    model, data, example = network
    ps.quantize(model, calibration=data.train, example=example, method="lsq", **QUIET)
    ps.train(model, data, callbacks=[ps.QuantizationAware()], **TRAINING)
    ps.fold_batchnorm(model, example)
    assert all(leaf.isfinite().all() for leaf in outputs(model, example))


def test_compress_goes_the_whole_way(network, tmp_path):
    model, data, _ = network
    found = ps.compress(
        model, data, epochs=0, ratio=0.25, recover_epochs=1, recover_lr=0.01, recover_precision="fp32", weights=8,
        out=tmp_path, **QUIET,
    )  # fmt: skip
    row = found.stages[-1]
    key = "accuracy" if data.task == "classification" else "metric"
    assert row[key] == row[key]
    if key == "metric":
        assert row["metric_name"] == data_metric(data).name
    assert found.report.is_file()
