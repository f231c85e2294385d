"""The verbs about deployed files, within this process."""

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch

import pintsize as ps
from pintsize.deploy.pint.format import about


@pytest.fixture
def demo(tmp_path):
    torch.manual_seed(0)
    model = ps.models.create("resnet-demo", in_channels=1).eval()
    ps.quantize(model, weights=4, activations=8, calibration=[torch.randn(16, 1, 8, 8)])
    return model


def test_export_to_pint_and_unpack(demo, tmp_path, pintsize):
    ps.save(demo, tmp_path / "q.safetensors")
    small = json.loads(pintsize("export", "-m", "q.safetensors", "-o", "q.pint", "--json", folder=tmp_path))
    assert small["format"] == "pint"
    assert small["bytes"] < (tmp_path / "q.safetensors").stat().st_size / 4
    out = json.loads(
        pintsize("unpack", "q.pint", "-o", "q.onnx", "--image-size", 8, "--json", folder=tmp_path)
    )
    assert (out["from_bytes"], out["bytes"]) == (small["bytes"], (tmp_path / "q.onnx").stat().st_size)
    text = pintsize("unpack", "q.pint", "-o", "again.safetensors", folder=tmp_path)
    assert text.startswith("again.safetensors: ")
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(ps.load(tmp_path / "again.safetensors")(x), demo(x))
        assert torch.allclose(ps.open_runtime(tmp_path / "q.onnx")(x), demo(x), atol=0.2)


def licence_in(path):
    return json.loads({each.key: each.value for each in onnx.load(path).metadata_props}["pintsize.licence"])


def test_the_licence_goes_into_the_file(demo, tmp_path, pintsize):
    ps.save(demo, tmp_path / "q.safetensors")
    pintsize("export", "-m", "q.safetensors", "--licence", "CC0-1.0", "-o", "q.pint", folder=tmp_path)
    assert about(tmp_path / "q.pint")["licence"] == "CC0-1.0"
    size = ["--image-size", 8]
    pintsize("unpack", "q.pint", "-o", "kept.onnx", *size, folder=tmp_path)
    pintsize("unpack", "q.pint", "-o", "other.onnx", *size, "--licence", "Apache-2.0", folder=tmp_path)
    assert [licence_in(tmp_path / f"{name}.onnx") for name in ("kept", "other")] == ["CC0-1.0", "Apache-2.0"]
    error = pintsize("unpack", "q.pint", "-o", "a.safetensors", "--licence", "MIT", folder=tmp_path, code=2)
    assert "licence for a.safetensors: a .safetensors file holds weights alone; leave it out" in error


def test_unpack_of_a_network_that_is_not_ours(tmp_path, pintsize, monkeypatch):
    (tmp_path / "net_of_a_user.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))\n"
    )
    pintsize("export", "-m", "net_of_a_user:net", "--image-size", 8, "-o", "net.pint", folder=tmp_path)
    error = pintsize("unpack", "net.pint", "-o", "net.onnx", folder=tmp_path, code=2)
    assert "does not say which network it holds" in error
    monkeypatch.delitem(sys.modules, "net_of_a_user")
    pintsize(
        "unpack", "net.pint", "-m", "net_of_a_user:net", "--image-size", 8, "-o", "net.onnx", folder=tmp_path
    )
    assert ps.open_runtime(tmp_path / "net.onnx").input_shape == (None, 1, 8, 8)


def test_unpack_refuses_what_is_no_pint_file(tmp_path, pintsize):
    (tmp_path / "net.pint").write_bytes(b"\x89PINT\r\n\x1a" + bytes(100))
    error = pintsize("unpack", "net.pint", "-o", "net.onnx", folder=tmp_path, code=2)
    assert error.startswith("pintsize: net.pint: its content does not match its checksum; restore it from")
    assert error.count("\n") == 1
    assert "there is no such file" in pintsize("unpack", "x.pint", "-o", "a.onnx", folder=tmp_path, code=2)


def test_bench_compares_formats_as_table_json_and_picture(demo, tmp_path, pintsize):
    x = torch.zeros(1, 1, 8, 8)
    ps.export(demo, tmp_path / "q.onnx", example=x)
    ps.export(ps.models.create("resnet-demo", in_channels=1), tmp_path / "fp.onnx", example=x)
    text = pintsize("bench", "fp.onnx", "q.onnx", "--repeats", 3, "--figure", "b.png", folder=tmp_path)
    assert [line.split()[0] for line in text.splitlines()[-2:]] == ["fp.onnx", "q.onnx"]
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    out = json.loads(pintsize("bench", "q.onnx", "--repeats", 3, "--json", folder=tmp_path))
    assert out["files"][0]["bytes"] == (tmp_path / "q.onnx").stat().st_size
    assert 0 < out["files"][0]["median_ms"] <= out["files"][0]["p95_ms"]
    assert out["files"][0]["name"] == out["files"][0]["file"] == "q.onnx"
    error = pintsize("bench", "q.onnx", "--figure", "b.bmp", folder=tmp_path, code=2)
    assert "kind of picture" in error


def test_bench_runs_one_file_in_several_runtimes(demo, tmp_path):
    pytest.importorskip("openvino")
    ps.export(demo, tmp_path / "q.onnx", example=torch.zeros(1, 1, 8, 8))
    (tmp_path / "a@b.onnx").write_bytes((tmp_path / "q.onnx").read_bytes())
    names = ["q.onnx", "q.onnx@openvino", "a@b.onnx", "a@b.onnx@openvino"]
    # in a process of its own: where OpenVINO and pyarrow are loaded (tests/data has the latter), a fork crashes
    done = subprocess.run(
        [Path(sys.executable).with_name("pintsize"), "bench", *names, "--backend", "onnxruntime", "--repeats", "2",
         "--threads", "1", "--figure", "b.svg", "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)["files"]
    assert [row["name"] for row in found] == names
    assert [row["file"] for row in found] == ["q.onnx", "q.onnx", "a@b.onnx", "a@b.onnx"]
    assert [row["backend"] for row in found] == ["onnxruntime", "openvino"] * 2
    assert all(row["bytes"] == (tmp_path / "q.onnx").stat().st_size for row in found)
    assert all(row["peak_memory_bytes"] > 0 for row in found)
    assert "q.onnx@openvino" in (tmp_path / "b.svg").read_text()


def test_bench_tells_what_it_does_not_know(demo, tmp_path, pintsize):
    ps.export(demo, tmp_path / "q.onnx", example=torch.zeros(1, 1, 8, 8))
    said = pintsize("bench", "q.onnx@openvin", folder=tmp_path, code=2)
    assert "backend 'openvin': there is no such backend; did you mean 'openvino'" in said
    assert "none.onnx: there is no such file" in pintsize("bench", "none.onnx@torch", folder=tmp_path, code=2)
    text = pintsize("bench", "./q.onnx@onnxruntime", "--repeats", 2, "--threads", 1, folder=tmp_path)
    assert text.splitlines()[-1].split()[0] == "q.onnx@onnxruntime"
