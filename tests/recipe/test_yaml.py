"""YAML that somebody else wrote."""

import time

import pytest

from pintsize.errors import InputError
from pintsize.pruning import Rules
from pintsize.recipe.yaml import read_yaml


def refused(tmp_path, text, match):
    file = tmp_path / "r.yaml"
    file.write_text(text)
    began = time.monotonic()
    with pytest.raises(InputError, match=match):
        read_yaml(file)
    assert time.monotonic() - began < 20


def test_what_yaml_holds(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("a: &x {lr: 1, list: [1, 2]}\nb: *x\nc: {<<: *x, lr: 3}\n")
    inner = {"lr": 1, "list": [1, 2]}
    assert read_yaml(file) == {"a": inner, "b": inner, "c": {"lr": 3, "list": [1, 2]}}
    file.write_text("")
    assert read_yaml(file) is None


def test_a_bomb_of_aliases_does_not_go_off(tmp_path):
    levels = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
    refused(tmp_path, "\n".join(levels), "more than 100000 values")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: &a [*a]", "more than 100000 values"),
        ("a: " + "9" * 5000, "it is no YAML"),
        ("a: 2020-13-45", "it is no YAML"),
        ("[" * 5000, "it is no YAML"),
        ("# " + "x" * 2**20, "larger than 1 MiB"),
        ("a: !!python/object/apply:os.system [true]", "it is no YAML"),
    ],
)
def test_hostile_files_are_refused(tmp_path, text, match):
    refused(tmp_path, text, match)


def test_a_rule_file_is_bounded(tmp_path):
    file = tmp_path / "n.rules"
    file.write_text("#" * (2**20 + 1))
    with pytest.raises(InputError, match="longer than 1048576 characters"):
        Rules.load(file)
