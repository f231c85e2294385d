"""The command line as a user runs it: real processes, exit codes, one line on standard error.

Verbs that change nothing, and mistakes, are tried within this process as well: `started` is a process, `pintsize` is not.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PINTSIZE = Path(sys.executable).with_name("pintsize")
SMALL = ["--data", "digits", "--limit", "300"]


def started(*args, folder=None, code=0):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    done = subprocess.run(
        [str(PINTSIZE), *map(str, args)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """train → prune → quantize → export, each reading the file of the one before."""
    folder = tmp_path_factory.mktemp("chain")
    started("train", "--model", "resnet-demo", *SMALL, "--epochs", 2, "--lr", 0.05, "--batch-size", 32,
            "--precision", "fp32", "--out", "dense.safetensors", folder=folder)  # fmt: skip
    started("prune", "--model", "dense.safetensors", "--macs", 0.5, "--data", "digits", "--out", "pruned.safetensors",
            folder=folder)  # fmt: skip
    started("quantize", "--model", "pruned.safetensors", *SMALL, "--out", "int8.safetensors", folder=folder)
    started("export", "--model", "int8.safetensors", "--data", "digits", "--out", "net.onnx", folder=folder)
    return folder


def test_the_verbs_make_a_chain(chain, pintsize):
    out = json.loads(
        pintsize("verify", "net.onnx", "--model", "int8.safetensors", *SMALL, "--json", folder=chain)
    )
    assert out["ok"]
    assert out["agreement"] >= 99
    dense, pruned = (
        json.loads(pintsize("profile", "--model", name, "--data", "digits", "--json", folder=chain))
        for name in ("dense.safetensors", "pruned.safetensors")
    )
    assert pruned["macs"] <= 0.505 * dense["macs"]


def test_bench_times_files_side_by_side(chain):
    out = json.loads(started("bench", "net.onnx", "net.onnx", "--repeats", 5, "--json", folder=chain))
    assert "median" in json.dumps(out)


def test_version_and_lists(pintsize, tmp_path):
    assert started("--version").startswith("pintsize 0.")
    assert "mobilenetv2" in pintsize("models", folder=tmp_path)
    assert "fashion-mnist" in pintsize("datasets", folder=tmp_path)


def test_a_factory_of_the_user(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))\n"
    )
    out = json.loads(started("profile", "--model", "mine:net", "--data", "digits", "--json", folder=tmp_path))
    assert out["params"] == 4 * 9 + 4 + 144 * 10 + 10
    assert out["macs"] == 36 * 4 * 9 + 1440


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["profile", "--model", "resnet19", "--data", "digits"], ["resnet19", "resnet18"]),
        (["prune", "--model", "missing.safetensors", "--ratio", "0.5", "--out", "x.safetensors"], ["missing.safetensors"]),
        (["bench", "missing.onnx"], ["missing.onnx"]),
        (["compress", "--model", "resnet-demo", "--data", "digits", "--recipe", "missing.yaml"], ["missing.yaml"]),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_code_2(tmp_path, args, words, pintsize):
    message = pintsize(*args, folder=tmp_path, code=2)
    assert all(word in message for word in words)


def test_an_unknown_option_is_code_2():
    assert "--rati" in started("prune", "--rati", "0.5", code=2)
