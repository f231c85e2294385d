"""`pintsize cluster` and `pintsize fixed-point`, within this process."""

import functools
import json

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.quant import fixed_point
from pintsize.storage.record import record

SMALL = ["--data", "digits", "--limit", "300"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a network trained for a moment in it."""
    path = tmp_path_factory.mktemp("net")
    data = ps.data.load("digits", limit=300)
    model = ps.models.create("resnet-demo", num_classes=10, in_channels=1, stem="small")
    ps.train(model, data, epochs=2, lr=0.05, batch_size=32, precision="fp32", progress=False)
    ps.save(model, path / "dense.safetensors")
    return path


def test_cluster_and_train_the_values(folder, pintsize):
    refused = pintsize(
        "cluster", "--model", "dense.safetensors", "--ignore", "nothing", "--out", "few.safetensors", folder=folder,
        code=2,
    )  # fmt: skip
    assert "matches no layer" in refused
    assert not (folder / "few.safetensors").exists()
    out = json.loads(
        pintsize("cluster", "--model", "dense.safetensors", *SMALL, "--k", 6, "--epochs", 1, "--batch-size", 32,
                 "--out", "few.safetensors", "--json", folder=folder)
    )  # fmt: skip
    assert out["drop"] == pytest.approx(out["val_accuracy_before"] - out["val_accuracy"])
    assert all(layer["levels"] == 6 for layer in out["layers"])
    network = ps.load(folder / "few.safetensors")
    assert [step.kind for step in record(network)] == ["cluster"]
    conv = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    assert len(conv.weight.unique()) <= 6


def test_cluster_without_data(folder, pintsize):
    out = pintsize(
        "cluster", "--model", "dense.safetensors", "--bits", 3, "--out", "few3.safetensors", folder=folder
    )
    assert "codebooks and codes" in out
    assert "no images" in pintsize(
        "cluster", "--model", "dense.safetensors", "--epochs", 1, "--out", "x.safetensors", folder=folder, code=2
    )  # fmt: skip
    message = pintsize(
        "cluster", "--model", "dense.safetensors", "--scope", "chanel", "--out", "x.safetensors", folder=folder, code=2
    )  # fmt: skip
    assert "'channel'" in message


def test_fixed_point_is_what_the_function_makes(folder, pintsize):
    out = json.loads(
        pintsize("fixed-point", "--model", "dense.safetensors", *SMALL, "--weights", 6, "--activations", 7,
                 "--norm", 9, "--mode", "log", "--calibration-images", 64, "--out", "log.safetensors", "--json",
                 folder=folder)
    )  # fmt: skip
    assert {tensor["kind"]: tensor["bits"] for tensor in out["tensors"]} == {
        "parameter": 6,
        "activation": 7,
        "norm": 9,
    }
    data = ps.data.load("digits", limit=300)
    model = ps.load(folder / "dense.safetensors")
    fixed_point(
        model, weights=6, activations=7, norm=9, mode="log", calibration=data.train.subset(64), calibration_images=64
    )  # fmt: skip
    assert ps.evaluate(model, data.val) == pytest.approx(out["val_accuracy"], abs=4)
    assert [step.kind for step in record(ps.load(folder / "log.safetensors"))] == ["fixed-point"]


def test_fixed_point_mistakes(folder, pintsize):
    common = ("fixed-point", "--model", "dense.safetensors", *SMALL, "--out", "x.safetensors")
    assert "from 2 to 16" in pintsize(*common, "--weights", 1, folder=folder, code=2)
    assert "'tanh'" in pintsize(*common, "--mode", "tan", folder=folder, code=2)
    assert "share of the values" in pintsize(*common, "--overflow-rate", 2, folder=folder, code=2)
    assert not (folder / "x.safetensors").exists()


@pytest.fixture
def shell(folder, pintsize):
    """The same, in that folder."""
    return functools.partial(pintsize, folder=folder)


QUANTIZE = ["quantize", "-m", "dense.safetensors", *SMALL, "--calibration-images", 32]


def made(path):
    """The step that quantized the network in a file."""
    return next(step for step in record(ps.load(path)) if step.kind == "quantize")


def test_quantize_takes_bits_by_pattern(shell, folder):
    shell(*QUANTIZE, "--weights", "conv1=6, layer1.*=4,fc=none", "--activations", "layer1.0.*=null,layer2=5",
          "--out", "q.safetensors")  # fmt: skip
    step = made(folder / "q.safetensors")
    assert {bits for layer, bits in step.weights.items() if layer.startswith("layer1")} == {4}
    assert (step.weights["conv1"], step.weights["layer3.1.conv2"]) == (6, 8)
    assert "fc" not in step.weights
    assert "layer1.0.conv1" not in step.inputs
    assert "layer1.1.conv1" in step.inputs
    assert step.input_bits["layer2.1.conv1"] == 5


def test_every_option_of_quantize_has_its_effect(shell, folder):
    model = ps.load(folder / "dense.safetensors")
    data = ps.data.load("digits", limit=300, seed=1)
    ps.quantize(
        model, weights=4, activations=None, edges=None, equalize=True, learn_rounding=True,
        correct_bias=True, iterations=3, seed=1, calibration=data.train.subset(32, 1), calibration_images=32,
    )  # fmt: skip
    shell(*QUANTIZE, "--weights", 4, "--activations", "none", "--edges", "none", "--equalize",
          "--learn-rounding", "--correct-bias", "--iterations", 3, "--seed", 1, "--out", "a.safetensors")  # fmt: skip
    found = ps.load(folder / "a.safetensors")
    assert made(folder / "a.safetensors").activations == []
    assert set(made(folder / "a.safetensors").weights.values()) == {4}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name]), name
    shell(*QUANTIZE, "--outputs", "--out", "b.safetensors")
    shell(*QUANTIZE, "--out", "c.safetensors")
    quantizers = [len(made(folder / f"{name}.safetensors").activations) for name in "bc"]
    assert quantizers[0] == quantizers[1] + 1


def test_bits_that_are_none(shell, folder):
    for option, value, cause in (
        ("weights", "layer1.*=four", "'layer1.*=four': 'four' is no number of bits; write a whole number"),
        ("weights", "many", "'many' is no number of bits"),
        ("activations", "=4", "'=4': it names no layer"),
        ("activations", "fc=4,fc=8", "the pattern 'fc' is given twice; leave one out"),
        ("edges", "some", "should be a valid integer"),
        ("iterations", 0, "greater than or equal to 1"),
    ):
        said = shell(*QUANTIZE, f"--{option}", value, "--out", "no.safetensors", code=2)
        assert f"quantize.{option}" in said
        assert cause in said
        assert said.count("\n") == 1
    said = shell(*QUANTIZE, "--weights", "layer9=4", "--out", "no.safetensors", code=2)
    assert "pattern 'layer9' in weights: it matches no layer" in said
    said = shell(*QUANTIZE, "--weights", "conv1=9", "--out", "no.safetensors", code=2)
    assert "weights['conv1']=9" in said
    assert not (folder / "no.safetensors").exists()
