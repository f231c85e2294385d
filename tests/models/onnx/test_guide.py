"""The guide "You only have the file" runs, block after block."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from onnx import TensorProto, helper

from onnx_graphs import constant, ends, ints, random, write
from pintsize.errors import UnsupportedOp
from pintsize.models import from_onnx
from pintsize.recipe.recipe import Recipe

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "onnx_file.md"


def blocks(language):
    found = re.findall(
        rf"^ *```{language}\n(.*?)^ *```", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    assert found
    return found


def test_its_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python"):
        exec(compile(block, str(GUIDE), "exec"), names)
    told = capsys.readouterr().out
    for word in ("runs/small/net.onnx", "changed by", "dense fp32", "dense int8", "largest difference"):
        assert word in told
    assert ends("small.onnx") == ends("runs/small/net.onnx") == ends("net.onnx")


def test_its_recipe_is_one():
    for block in blocks("yaml"):
        document = yaml.safe_load(block)
        assert {"prune", "recover"} <= set(document)
        document["prune"]["macs"] = 0.5
        Recipe.parse(document)


def test_a_file_is_cut_in_front_of_what_is_refused(tmp_path):
    """By the command of the guide, with other names."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"]), constant("to", ints(1, 1, -1)), node("Reshape", ["c", "to"], ["scores"]),
        node("NonMaxSuppression", ["boxes", "scores"], ["chosen"], name="/nms"),
    ]  # fmt: skip
    write(tmp_path / "net.onnx", nodes, {"x": [1, 3, 8, 8], "boxes": [1, 36, 4]},
          {"chosen": (["n", 3], TensorProto.INT64)}, {"w": random(1, 3, 3, 3)})  # fmt: skip
    with pytest.raises(UnsupportedOp, match="/nms"):
        from_onnx(tmp_path / "net.onnx")
    (command,) = (
        line for block in blocks("console") for line in block.splitlines() if "extract_model" in line
    )
    code = command.split('"')[1].replace("'images'", "'x'").replace("'boxes', 'scores'", "'scores'")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert from_onnx(tmp_path / "core.onnx")(torch.rand(1, 3, 8, 8)).shape == (1, 1, 36)
