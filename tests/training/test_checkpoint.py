from __future__ import annotations

import random
from collections import OrderedDict

import numpy as np
import pytest
import torch

from pintsize.errors import CorruptFile, InputError, InputTypeError, OperationError
from pintsize.storage import network_file as files
from pintsize.training import checkpoint, rng


def content(**more):
    return {
        "configuration": {"lr": 0.1},
        "epoch": 3,
        "model": OrderedDict(w=torch.arange(6.0).view(2, 3)),
        **more,
    }


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "a.ckpt"
    path.parent.mkdir()
    strided = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    checkpoint.write(path, content(strided=strided, mixed=[None, True, 1, 2.5, "x", b"y", (1, 2)]))
    read = checkpoint.read(path)
    assert torch.equal(read["model"]["w"], torch.arange(6.0).view(2, 3))
    assert read["mixed"] == [None, True, 1, 2.5, "x", b"y", (1, 2)]
    assert read["strided"].stride() == strided.stride()
    assert torch.equal(read["strided"], strided)


def test_generators_go_through_a_checkpoint(tmp_path):
    device = torch.device("cpu")
    checkpoint.write(tmp_path / "a", content(generators=[rng.state(device)]))
    drawn = torch.rand(3), np.random.rand(3), random.random()
    rng.restore(checkpoint.read(tmp_path / "a")["generators"][0], device)
    again = torch.rand(3), np.random.rand(3), random.random()
    assert torch.equal(drawn[0], again[0])
    assert np.array_equal(drawn[1], again[1])
    assert drawn[2] == again[2]


@pytest.mark.parametrize("position", [0, 5, 30, 60, 200, -1])
def test_one_flipped_bit_is_found(tmp_path, position):
    path = tmp_path / "a.ckpt"
    checkpoint.write(path, content())
    raw = bytearray(path.read_bytes())
    raw[position] ^= 4
    path.write_bytes(raw)
    with pytest.raises(CorruptFile, match="a.ckpt"):
        checkpoint.read(path)


@pytest.mark.parametrize("kept", [0, 10, 40, 300])
def test_a_truncated_file_is_found(tmp_path, kept):
    path = tmp_path / "a.ckpt"
    checkpoint.write(path, content())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CorruptFile, match="a.ckpt"):
        checkpoint.read(path)


class Foreign:
    pass


@pytest.mark.parametrize("value", [Foreign(), {"a": [Foreign()]}, {Foreign(): 1}, np.float64(1), np.zeros(2)])
def test_what_could_not_be_read_back_is_not_written(tmp_path, value):
    checkpoint.write(tmp_path / "a", content())
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(InputTypeError, match="cannot be stored"):
        checkpoint.write(tmp_path / "a", content(value=value))
    assert (tmp_path / "a").read_bytes() == before


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_require_plain", lambda *_: None)
    checkpoint.write(tmp_path / "a", content(value=Foreign()))
    with pytest.raises(CorruptFile, match="cannot be read"):
        checkpoint.read(tmp_path / "a")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    checkpoint.write(path, content())
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OperationError, match="No space left"):
        checkpoint.write(path, content(epoch=4))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def test_prepare_clears_what_a_kill_left_and_nothing_else(tmp_path):
    for name in (".a.ckpt.x1y2z3w4", ".b.ckpt.x1y2z3w4", "a.ckpt"):
        (tmp_path / name).write_bytes(b"half")
    checkpoint.prepare(tmp_path / "a.ckpt")
    assert sorted(file.name for file in tmp_path.iterdir()) == [".b.ckpt.x1y2z3w4", "a.ckpt"]


def test_prepare_finds_an_unusable_place_at_once(tmp_path):
    with pytest.raises(InputError, match="it is a folder"):
        checkpoint.prepare(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OperationError, match="cannot be written"):
        checkpoint.prepare(tmp_path / "file" / "a.ckpt")


def test_the_error_says_what_differs(tmp_path):
    checkpoint.require_same(tmp_path, {"lr": 0.1, "seed": 0}, {"lr": 0.1, "seed": 0})
    with pytest.raises(InputError, match=r"lr was 0\.1, is 0\.2; teacher was None, is 'net'") as caught:
        checkpoint.require_same(tmp_path, {"lr": 0.1, "seed": 0}, {"lr": 0.2, "seed": 0, "teacher": "net"})
    assert "seed" not in str(caught.value)
