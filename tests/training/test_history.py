from __future__ import annotations

import json

import pytest

from pintsize.errors import CorruptFile, InputError
from pintsize.training import History


def entry(epoch, val, train=50.0):
    return {
        "epoch": epoch, "lr": 0.1, "train_loss": 1.0, "train_accuracy": train, "val_loss": 1.0, "val_accuracy": val,
        "seconds": 2.0,
    }  # fmt: skip


def test_best_is_the_first_of_the_highest_validation_accuracy():
    assert History([entry(1, 80.0), entry(2, 90.0), entry(3, 90.0), entry(4, 70.0)]).best["epoch"] == 2


def test_best_without_validation_goes_by_training_accuracy():
    assert History([entry(1, None, 60.0), entry(2, None, 70.0)]).best["epoch"] == 2


def test_best_of_nothing():
    assert History().best is None


def test_round_trip(tmp_path):
    history = History([entry(1, 80.0), entry(2, None)])
    history.save(tmp_path / "h.json")
    loaded = History.load(tmp_path / "h.json")
    assert loaded == history
    assert isinstance(loaded, History)
    assert json.loads((tmp_path / "h.json").read_text())[0]["val_accuracy"] == 80.0


@pytest.mark.parametrize("content", [b"", b"[1]", b"{}", b"[{]", b"\xff\xfe[["])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "h.json").write_bytes(content)
    with pytest.raises(CorruptFile, match="h.json"):
        History.load(tmp_path / "h.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        History.load(tmp_path / "h.json")
