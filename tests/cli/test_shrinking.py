"""`pintsize shrink` and the other verbs on an `.onnx` file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from onnx import helper
from PIL import Image

from onnx_graphs import detector, ends, random, write

node = helper.make_node
PINTSIZE = Path(sys.executable).with_name("pintsize")


@pytest.fixture
def file(tmp_path):
    return detector(tmp_path / "net.onnx")


def test_one_command_from_a_file_and_pictures(photos, tmp_path):
    file = detector(tmp_path / "net.onnx", size=(32, 32))
    done = subprocess.run(
        [PINTSIZE, "shrink", file, "--images", photos, "--macs", "0.5", "--epochs", "1",
         "--threads", "1", "--out", "small", "--json"],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for name in ("file", "pruned", "report"):
        assert (tmp_path / told[name]).is_file()
    assert ends(tmp_path / told["file"])[0] == ends(file)[0]
    assert told["held"]
    assert told["max_change"] is None
    assert told["change"] == told["stages"][0]["metric"] - told["stages"][-1]["metric"]


@pytest.fixture
def classifier(tmp_path):
    nodes = [
        node("Conv", ["images", "w"], ["c"], name="/stem/Conv", strides=[2, 2]), node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "v"], ["d"], name="/body/Conv"), node("Relu", ["d"], ["s"]),
        node("GlobalAveragePool", ["s"], ["p"]), node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "l", "b"], ["logits"], name="/fc/Gemm", transB=1),
    ]  # fmt: skip
    weights = {
        "w": random(8, 3, 3, 3),
        "v": random(8, 8, 3, 3, seed=1),
        "l": random(2, 8, seed=2),
        "b": random(2),
    }
    return write(tmp_path / "net.onnx", nodes, {"images": ["n", 3, 16, 16]}, {"logits": ["n", 2]}, weights)


@pytest.fixture
def classes(tmp_path):
    """Red and blue images in folders of their class."""
    for part, count in (("train", 24), ("test", 8)):
        for name, colour in (("blue", (20, 30, 200)), ("red", (200, 30, 20))):
            folder = tmp_path / "set" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                shade = tuple(value + number for value in colour)
                Image.new("RGB", (16, 16), shade).save(folder / f"{number}.png")
    return tmp_path / "set"


def test_labels_judge_where_they_are_given(classifier, classes, pintsize):
    told = json.loads(
        pintsize("shrink", classifier, "--labels", f"imagefolder:{classes}", "--task", "classification",
                 "--ratio", 0, "--size", 16, "--threads", 1, "--out", "run", "--json", folder=classes)
    )  # fmt: skip
    dense = told["stages"][0]
    assert "accuracy" in dense
    assert "fidelity" not in json.dumps(dense)
    assert told["change"] == dense["accuracy"] - told["stages"][-1]["accuracy"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "--images"),
        (["--images", ".", "--labels", "digits", "--task", "classification"], "--images"),
        (["--labels", "digits"], "--task"),
        (["--images", "nowhere"], "nowhere"),
        (["--images", ".", "--max-change", "-1"], "max_change"),
        (["--images", ".", "--size", "32"], "picture"),
        (["--images", ".", "--mean", "a,b"], "--mean"),
    ],
)
def test_what_is_missing_or_wrong_is_told_with_the_remedy(file, args, said, pintsize, tmp_path):
    told = pintsize("shrink", file, *args, folder=tmp_path, code=2)
    assert said in told
    assert len(told.strip().splitlines()) == 1


def test_a_network_that_nobody_trained_or_that_is_damaged(photos, pintsize, tmp_path):
    assert "random" in pintsize("shrink", "resnet-demo", "--images", photos, folder=tmp_path, code=2)
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x07 no graph")
    told = pintsize("shrink", "bad.onnx", "--images", photos, folder=tmp_path, code=2)
    assert "bad.onnx" in told
    assert "restore" in told


def test_an_operator_that_is_not_understood_is_named(photos, pintsize, tmp_path):
    nodes = [node("Warp", ["x"], ["y"], name="/neck/Warp_3", domain="com.example")]
    write(tmp_path / "a.onnx", nodes, {"x": ["n", 3, 8, 8]}, {"y": None}, other=[("com.example", 1)])
    told = pintsize("shrink", "a.onnx", "--images", photos, folder=tmp_path, code=1)
    assert "/neck/Warp_3" in told


def test_the_other_verbs_take_the_file_too(file, photos, pintsize, tmp_path):
    images = ["--data", f"images:{photos}", "--image-size", "32"]
    profile = json.loads(pintsize("profile", "--model", file, "--image-size", 32, "--json", folder=tmp_path))
    assert profile["macs"] > 0
    pintsize("prune", "--model", file, "--macs", 0.6, *images, "--out", "small.safetensors", folder=tmp_path)
    smaller = json.loads(
        pintsize("profile", "--model", "small.safetensors", "--image-size", 32, "--json", folder=tmp_path)
    )
    assert smaller["macs"] < 0.65 * profile["macs"]
    pintsize(
        "quantize", "--model", "small.safetensors", *images, "--out", "int8.safetensors", folder=tmp_path
    )
    pintsize("export", "--model", "int8.safetensors", *images, "--out", "int8.onnx", folder=tmp_path)
    assert ends(tmp_path / "int8.onnx") == ends(file)
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx", providers=["CPUExecutionProvider"])
    boxes, scores = session.run(None, {"images": torch.rand(2, 3, 32, 48).numpy()})
    assert boxes.shape[0] == scores.shape[0] == 2
    assert boxes.shape[2] == scores.shape[2]
    pintsize("show", file, "--image-size", 32, folder=tmp_path)
