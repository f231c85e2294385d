"""The examples, run cell by cell as a notebook runs them; what a cell ends with must be something to look at."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pintsize as ps

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = """
import ast, json, pathlib, re, sys
names, shown = {"__name__": "__main__"}, []
for cell in re.split("^# %%", pathlib.Path(sys.argv[1]).read_text(), flags=re.MULTILINE):
    if cell.startswith(" [markdown]"):
        assert all(line.startswith("#") for line in cell.strip().splitlines()[1:]), cell
        continue
    tree = ast.parse(cell)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, sys.argv[1], "exec"), names)
    value = eval(compile(ast.Expression(last.value), sys.argv[1], "eval"), names) if last else None
    if value is not None:
        shown.append(value._repr_html_())
pathlib.Path("shown.json").write_text(json.dumps(shown))
"""


def started(folder, *arguments):
    """What a process in `folder` prints, whose warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run(name, folder):
    """What a notebook shows of an example, and what it prints."""
    printed = started(folder, "-c", NOTEBOOK, EXAMPLES / name)
    return json.loads((folder / "shown.json").read_text()), printed


def number(text, after):
    return float(text.partition(after)[2].split()[0])


def test_quick_start(tmp_path):
    shown, printed = run("quick_start.py", tmp_path)
    assert [html.lstrip()[:4] for html in shown] == [
        "<div",
        "<tab",
        "<tab",
        "<tab",
    ]  # curves and three tables
    assert number(printed, "accuracy of the file ") > 80
    assert number(printed, "the same class as the model for ") > 98
    before, after = (int(part) for part in printed.split("MACs ")[1].split("\n")[0].split(" → "))
    assert after <= 0.51 * before


def test_attention_pruning(tmp_path):
    shown, printed = run("attention_pruning.py", tmp_path)
    assert len(shown) == 3
    assert "Channels kept" in shown[1]
    assert "recovery ends" in shown[2]
    assert float(printed.rsplit("→", 1)[1].split()[0]) > 80


def test_sparse_and_clustered(tmp_path):
    shown, printed = run("sparse_and_clustered.py", tmp_path)
    assert len(shown) == 4
    assert "20.00%" in shown[0]
    assert number(printed, ", ") >= 10  # times fewer bytes
    assert float(printed.rsplit("→", 1)[1].split()[0]) > 80


def test_deploy(tmp_path):
    shown, printed = run("deploy.py", tmp_path)
    assert len(shown) == 4
    assert "int8.onnx" in shown[-1]
    assert number(printed, "same class for ") > 98
    sizes = [int(line.split(", ")[1].split()[0]) for line in printed.splitlines() if ".onnx" in line]
    assert sizes[1] < 0.4 * sizes[0]


def trained(name, epochs, folder):
    """What a script prints of a network that it trains for so many epochs, and the weights that it writes."""
    printed = started(folder, EXAMPLES / f"{name}.py", epochs)
    assert (folder / f"{name}.pt").is_file()
    return printed


def smaller(name, example):
    """The example's network with half of its work, and its quantized file's outputs beside its own."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.make().eval()
    before = ps.profile(model, example).macs
    ps.prune(model, example, macs=0.5)
    assert ps.profile(model, example).macs <= 0.51 * before
    ps.quantize(model, calibration=[example])
    return module, model


def test_yolo(tmp_path):
    pytest.importorskip("faster_coco_eval")
    printed = trained("yolo", 2, tmp_path)
    assert number(printed, "mAP@.5 ") > 5  # a minute more makes it 80
    example = torch.rand(2, 1, 96, 128)
    module, model = smaller("yolo", example)
    ps.export(model, tmp_path / "yolo.onnx", example=example)
    assert [one.shape[2:] for one in model(example)] == [(24, 32), (12, 16), (6, 8)]
    assert len(module.decode(model(example))) == 2


def test_unet(tmp_path):
    printed = trained("unet", 1, tmp_path)
    assert number(printed, "mIoU ") > 5
    example = torch.rand(2, 1, 96, 128)
    _, model = smaller("unet", example)
    ps.export(model, tmp_path / "unet.onnx", example=example)
    assert model(example).shape == (2, 11, 96, 128)


def test_pose(tmp_path):
    printed = started(tmp_path, EXAMPLES / "pose.py", 1)
    assert "PCK" in printed
    assert (tmp_path / "runs" / "pose" / "net.onnx").is_file()


def test_super_resolution(tmp_path):
    printed = started(tmp_path, EXAMPLES / "super_resolution.py", 1, 200)
    assert "verified on 4 images" in printed
    assert number(printed, "half the MACs ") > number(printed, "dense PSNR ") - 3


def test_two_inputs(tmp_path):
    printed = started(tmp_path, EXAMPLES / "two_inputs.py", 4)
    assert "verified on 144 images" in printed
    assert number(printed, "half the MACs ") < 2


def test_every_example_is_run():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {name.removeprefix("test_") for name in globals() if name.startswith("test_")} - {
        "every_example_is_run"
    }
