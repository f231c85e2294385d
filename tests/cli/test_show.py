"""`show` and `report` as a user runs them: piped, on a terminal, without colours, as JSON.

What needs a pipe, a terminal or a signal is a process of its own; the rest runs within this one.
"""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch

import pintsize as ps

PINTSIZE = Path(sys.executable).with_name("pintsize")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}
COLOUR = re.compile(r"\x1b\[[\d;]*m")


def piped(*args):
    """What a process writes into a pipe."""
    command = [str(PINTSIZE), *map(str, args)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def on_a_terminal(*args, columns=80, **environment):
    """What a process writes to a terminal of so many columns."""
    parent, child = pty.openpty()
    shown = {**ENVIRONMENT, "COLUMNS": str(columns), **environment}
    process = subprocess.Popen([str(PINTSIZE), *map(str, args)], env=shown, stdout=child, stderr=child)
    os.close(child)
    text = b""
    while True:
        try:
            read = os.read(parent, 65536)
        except OSError:  # the other side is closed: how Linux ends a terminal
            break
        if not read:
            break
        text += read
    os.close(parent)
    assert process.wait(timeout=300) == 0, text.decode()
    return text.decode().replace("\r\n", "\n")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A pruned and sparse network in each format."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    model = ps.models.create("resnet-demo", in_channels=1).eval()
    example = torch.randn(2, 1, 16, 16)
    ps.prune(model, example, ratio=0.5)
    ps.sparsify(model, density=0.25)
    ps.save(model, folder / "net.safetensors")
    ps.export(model, folder / "net.onnx", example=example)
    ps.export(model, folder / "net.pint")
    return folder


@pytest.mark.parametrize("suffix", ["safetensors", "onnx", "pint"])
def test_piped_it_is_plain_and_whole(files, suffix, called):
    lines = called("show", f"net.{suffix}", folder=files).out.splitlines()
    assert lines[0].split() == ["layer", "type", "weight", "density", "bits", "bytes", "MACs"]
    assert any(line.startswith("layer2.0.downsample.0 ") for line in lines)
    assert "layers" in lines[-1]
    assert "\x1b" not in "".join(lines)


def test_a_pipe_gets_the_same(files, called):
    path = files / "net.pint"
    assert piped("show", path) == called("show", path, folder=files).out


@pytest.mark.parametrize("suffix", ["safetensors", "onnx", "pint"])
def test_json_says_the_same_of_each_format(files, suffix, pintsize):
    found = json.loads(pintsize("show", f"net.{suffix}", "--image-size", 16, "--json", folder=files))
    assert found["bytes"] == (files / f"net.{suffix}").stat().st_size
    assert found["image_shape"] == [1, 16, 16]
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert (
        sum(one["macs"] for one in layers.values())
        == ps.profile(ps.load(files / "net.safetensors"), torch.zeros(1, 1, 16, 16)).macs
    )
    if suffix != "onnx":  # where batch norms are folded, and layers and weights have moved
        assert found["steps"] == ["prune", "mask"]
        weights = [one for one in layers.values() if one["type"] in {"conv2d", "linear"}]
        kept = sum(one["density"] * torch.Size(one["shape"]).numel() for one in weights)
        assert kept / sum(torch.Size(one["shape"]).numel() for one in weights) == pytest.approx(
            0.25, abs=0.001
        )


def test_on_a_terminal_of_80_columns(files):
    coloured = on_a_terminal("show", files / "net.safetensors")
    assert "48;5;" in coloured or "48;2;" in coloured  # heat
    plain = COLOUR.sub("", coloured)
    assert max(map(len, plain.splitlines())) <= 80
    numbers = [line.split()[-2:] for line in plain.splitlines() if "conv2d" in line]
    assert numbers
    assert not any("…" in part for pair in numbers for part in pair)  # cut are names, never numbers


def test_no_color(files):
    assert not re.search(r"\x1b\[[\d;]*[34]8;", on_a_terminal("show", files / "net.onnx", NO_COLOR="1"))


def test_profile_on_a_terminal(files):
    plain = COLOUR.sub("", on_a_terminal("profile", "--model", files / "net.safetensors"))
    assert max(map(len, plain.splitlines())) <= 80


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["show", "none.onnx"], ["none.onnx", "no such file"]),
        (["show", "net.onnx", "--image-size", "32"], ["1×16×16"]),
        (["show", "net.txt"], [".txt"]),
        (["report", "none"], ["no such run folder"]),
        (["report", ".", "."], ["different run folders"]),
        (["report", "a", "b", "--watch"], ["one run folder"]),
    ],
)
def test_bad_input_is_one_line_and_code_2(files, args, words, pintsize):
    (files / "net.txt").write_text("")
    message = pintsize(*args, code=2, folder=files)
    assert len(message.splitlines()) == 1
    assert all(word in message for word in words)


def run_folder(path, accuracy):
    stages = [
        {"name": name, "accuracy": percent, "bytes": size, "latency": {"median_ms": 2.0}}
        for name, percent, size in (("dense fp32", 90.0, 1000), ("pruned int8", accuracy, 300))
    ]
    path.mkdir()
    (path / "metrics.json").write_text(json.dumps({"format": 1, "stages": stages}))
    return path


def test_report_of_one_and_of_several(tmp_path, pintsize):
    one, two = run_folder(tmp_path / "one", 89.0), run_folder(tmp_path / "two", 88.0)
    assert pintsize("report", one, folder=tmp_path).strip() == str(one / "report.html")
    written = pintsize("report", one, "--out", tmp_path / "else.html", folder=tmp_path)
    assert written.strip() == str(tmp_path / "else.html")
    assert "1.00 points lost" in (tmp_path / "else.html").read_text()
    found = json.loads(pintsize("report", one, two, "--json", folder=tmp_path))
    assert found == {"report": "comparison.html"}
    assert "most accurate is one" in (tmp_path / "comparison.html").read_text()


LISTENING = (  # to the interrupt, which a parent in the background ignores for all its children
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from pintsize.cli import main; main()"
)


def test_watch_serves_until_interrupted(tmp_path):
    folder = run_folder(tmp_path / "run", 89.0)
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENING, "report", "--watch", str(folder)], env=ENVIRONMENT, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        url = process.stdout.readline().split()[0]
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert "1.00 points lost" in answer.read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.stdout.close()
