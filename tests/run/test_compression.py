"""A run from end to end: files, resuming, locking, and what the figures say."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import onnx
import pytest
import torch

import pintsize as ps
from pintsize.data.digest import data_digest
from pintsize.deploy.pint.format import about
from pintsize.errors import InputError, MissingExtra, OperationError
from pintsize.measure import machine
from pintsize.report.compare import points
from pintsize.storage.folder import RunFolder

QUICK = {
    "macs": 0.5,
    "limit": 300,
    "epochs": 2,
    "lr": 0.05,
    "batch_size": 32,
    "recover_epochs": 1,
    "precision": "fp32",
    "recover_precision": "fp32",
}
SMALL = """
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 10),
    )
"""  # exported in a second


def run(folder, **options):
    return ps.compress("resnet-demo", "digits", out=folder, progress=False, **{**QUICK, **options})


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "a"
    return run(folder)


def test_a_run_leaves_every_file(finished):
    names = {path.name for path in finished.folder.iterdir()}
    assert names >= {
        "recipe.yaml", "record.json", "metrics.json", "log.txt", "report.html", "figures", "dense.safetensors",
        "pruned.safetensors", "quantized.safetensors", "dense.onnx", "pruned.onnx", "net.onnx",
    }  # fmt: skip


def test_the_figures_are_those_of_the_files(finished):
    dense, pruned, small = finished.stages
    assert [s["name"] for s in finished.stages] == ["dense fp32", "pruned fp32", "pruned int8"]
    assert finished.metrics["machine"] == json.loads(json.dumps(machine()))
    for stage in finished.stages:
        assert stage["bytes"] == (finished.folder / stage["file"]).stat().st_size
    assert 0.35 * dense["macs"] < pruned["macs"] <= 0.505 * dense["macs"]
    assert small["bytes"] < 0.5 * pruned["bytes"]
    assert abs(small["accuracy"] - pruned["accuracy"]) < 5
    verification = finished.metrics["verification"]
    assert (verification["path"], verification["against"]) == ("net.onnx", "pruned.onnx")
    assert str(finished.folder) not in (finished.folder / "metrics.json").read_text()
    assert verification["ok"]
    assert verification["agreement"] >= 99
    data = ps.data.load("digits", limit=300)
    runtime = ps.open_runtime(finished.path)
    assert ps.evaluate(runtime, data.test) == pytest.approx(small["accuracy"])


def test_the_stored_network_is_the_compressed_one(finished):
    loaded = ps.load(finished.folder / "quantized.safetensors")
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(x), finished.model.eval()(x))
    kinds = [step["kind"] for step in json.loads((finished.folder / "record.json").read_text())["steps"]]
    assert kinds == ["prune", "fold", "quantize"]


def test_a_quantized_network_is_trained_on_and_packed(finished, tmp_path):
    options = {"macs": None, "recover_epochs": None, "recover_precision": None, "limit": 900, "epochs": 8,
               "weights": 2, "activations": 4}  # fmt: skip
    calibrated = run(tmp_path, **options)
    trained = run(tmp_path, **options, method="lsq", qat_epochs=4, qat_lr=0.02, qat_precision="fp32")
    assert [s["name"] for s in trained.stages] == ["dense fp32", "dense w2a4"]
    assert len(trained.metrics["histories"]["qat"]) == 4
    assert trained.stages[-1]["val_accuracy"] > calibrated.stages[-1]["val_accuracy"] + 5
    small = trained.folder / "net.pint"
    assert trained.stages[-1]["compressed_bytes"] == small.stat().st_size < 0.25 * trained.stages[0]["bytes"]
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ps.load(small)(x), trained.model.eval()(x), atol=1e-4)


def test_a_run_with_bits_by_pattern_and_learned_rounding(tmp_path):
    result = ps.compress(
        "resnet-demo", "digits", recipe={"quantize": {"weights": {"layer1.*": 4, "fc": None}}}, out=tmp_path, limit=60,
        epochs=1, batch_size=32, precision="fp32", calibration_images=16, learn_rounding=True, iterations=2,
        licence="CC0-1.0", progress=False,
    )  # fmt: skip
    assert [stage["name"] for stage in result.stages] == ["dense fp32", "dense mixed bits"]
    bits = {layer["name"]: layer["bits"] for layer in result.metrics["layers"]}
    assert (bits["layer1.0.conv1"], bits["layer2.0.conv1"], bits["fc"]) == (4, 8, 32)
    for name in ("dense", "net"):  # the deployed files say under which licence they are
        assert about(tmp_path / f"{name}.pint")["licence"] == "CC0-1.0"
        told = {each.key: each.value for each in onnx.load(tmp_path / f"{name}.onnx").metadata_props}
        assert told["pintsize.licence"] == '"CC0-1.0"'
    assert [point["bits"] for point in points([tmp_path])] == ["WmixedA8"]


def test_a_second_start_repeats_nothing_and_a_changed_recipe_only_what_it_concerns(finished, tmp_path):
    before = {p.name: p.stat().st_mtime_ns for p in finished.folder.glob("*.safetensors")}
    again = run(finished.folder)
    assert {p.name: p.stat().st_mtime_ns for p in finished.folder.glob("*.safetensors")} == before
    assert again.stages == finished.stages
    run(finished.folder, method="minmax")
    after = {p.name: p.stat().st_mtime_ns for p in finished.folder.glob("*.safetensors")}
    assert after["dense.safetensors"] == before["dense.safetensors"]
    assert after["pruned.safetensors"] == before["pruned.safetensors"]
    assert after["quantized.safetensors"] != before["quantized.safetensors"]
    other = run(finished.folder, method="minmax", threads=1)
    assert {p.name: p.stat().st_mtime_ns for p in finished.folder.glob("*.safetensors")} == after
    assert {row["latency"]["threads"] for row in other.stages} == {1}


def test_other_training_images_are_another_run():
    plain, cut = (ps.data.load("digits", limit=60, cutout=side) for side in (0, 3))
    assert data_digest(plain) == data_digest(ps.data.load("digits", limit=60))
    assert (
        len({data_digest(plain), data_digest(cut), data_digest(ps.data.load("digits", limit=60, flip=True))})
        == 3
    )


def test_a_killed_run_goes_on_to_the_same_file(tmp_path):
    (tmp_path / "small.py").write_text(SMALL)
    script = (
        "import sys, pintsize as ps\n"
        f"ps.compress('small:make', 'digits', out=sys.argv[1], progress=False, **{QUICK!r})\n"
    )
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, str(whole)], check=True, env=environment)
    process = subprocess.Popen([*command, str(killed)], env=environment)
    deadline = time.monotonic() + 300
    while not (killed / "dense.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "net.onnx").exists()
    subprocess.run([*command, str(killed)], check=True, env=environment)
    for name in ("dense.safetensors", "pruned.safetensors", "quantized.safetensors"):
        assert digest(killed / name) == digest(whole / name), name


def test_a_run_in_floating_point_alone(tmp_path):
    result = ps.compress(
        "resnet-demo", "digits", recipe={"quantize": None}, out=tmp_path, limit=60, epochs=1, batch_size=32,
        precision="fp32", progress=False,
    )  # fmt: skip
    assert [stage["name"] for stage in result.stages] == ["dense fp32"]
    assert result.stages[0]["val_accuracy"] == result.metrics["histories"]["train"][-1]["val_accuracy"]


def test_two_processes_cannot_share_a_folder(tmp_path):
    with (
        RunFolder(tmp_path).open(),
        pytest.raises(OperationError, match="another process"),
        RunFolder(tmp_path).open(),
    ):
        pass


def test_a_trained_network_of_the_user_is_not_changed(tmp_path):
    torch.manual_seed(0)
    exec(SMALL, names := {})
    network = names["make"]()
    data = ps.data.load("digits", limit=60)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    result = ps.compress(network, data, out=tmp_path / "b", ratio=0.3, epochs=0, recover_epochs=1,
                         recover_precision="fp32", progress=False)  # fmt: skip
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert result.stages[1]["params"] < result.stages[0]["params"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.2, "macs": None}, "ratio"),
        ({"weights": 12}, "weights"),
        ({"schedule": "cosin"}, "schedule"),
        ({"round_to": "eight"}, "round_to"),
    ],
)
def test_bad_options_are_named_before_anything_is_done(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path / "c", **options)
    assert not (tmp_path / "c" / "dense.safetensors").exists()


def test_a_runtime_that_is_not_installed_is_named_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"pintsize\[openvino\]"):
        run(tmp_path / "c", backend="openvino")
    assert not (tmp_path / "c" / "dense.safetensors").exists()


def test_an_unusable_folder_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OperationError, match="file"):
        run(blocked / "run")
