"""A file and pictures in, a smaller file out: no labels, no training code."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

import pintsize as ps
from onnx_graphs import detector, ends, random, write
from pintsize import errors
from pintsize.recipe.recipe import Recipe
from pintsize.run import shrinking

node = helper.make_node
QUICK = {"size": 32, "epochs": 1, "threads": 1, "progress": False}


def outputs(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["123", "scores/out:0"], {"images": x.numpy()})


def stages(result):
    return [row["name"] for row in result.stages]


def told(folder):
    return {file: file.stat().st_mtime_ns for file in folder.glob("*.safetensors")}


@pytest.fixture(scope="module")
def half(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    file = detector(folder / "net.onnx")
    return file, ps.shrink(file, photos, macs=0.5, out=folder / "run", **QUICK)


def test_the_small_file_takes_the_old_ones_place_at_two_sizes(half):
    file, result = half
    assert ends(result.path) == ends(result.pruned) == ends(file)
    assert {"names": "cat,dog"}.items() <= {
        p.key: p.value for p in onnx.load(result.path).metadata_props
    }.items()
    for shape in ((1, 3, 32, 32), (2, 3, 48, 64)):
        x = torch.rand(shape)
        for old, new, pruned in zip(
            *(outputs(path, x) for path in (file, result.path, result.pruned)), strict=True
        ):
            assert old.shape == new.shape == pruned.shape
            assert np.abs(new - pruned).max() < 0.1 * np.abs(pruned).max()


def test_it_tells_what_went_and_what_changed(half):
    _, result = half
    dense, *_, last = result.stages
    assert last["macs"] < 0.55 * dense["macs"]
    assert dense["metric"] == pytest.approx(100, abs=1e-3)
    assert last["metric_name"] == "fidelity"
    assert result.change == dense["metric"] - last["metric"]
    assert 0 < result.change < 100
    assert result.max_change is None
    assert result.held
    assert result.path.parent == result.folder
    assert stages(result) == ["dense fp32", "pruned fp32", "pruned int8"]


def test_the_report_shows_what_the_network_sees_and_where_the_two_disagree(half):
    _, result = half
    page = result.report.read_text()
    for name in ("what-the-network-sees", "largest-disagreements"):
        assert (result.folder / "figures" / f"{name}.png").is_file()
        assert name.replace("-", " ") in page.lower()


def test_a_second_start_repeats_nothing(half, photos):
    file, result = half
    before = told(result.folder)
    trained = []
    again = ps.shrink(
        file, photos, macs=0.5, out=result.folder, on_epoch=lambda stage, row: trained.append(stage), **QUICK
    )
    assert told(result.folder) == before
    assert not trained
    assert again.stages == result.stages
    assert json.loads((result.folder / "metrics.json").read_text())["stages"] == result.stages


def test_without_channels_to_remove_a_file_of_fixed_size_is_quantized_only(photos, tmp_path):
    file = detector(tmp_path / "net.onnx", size=(32, 32))
    result = ps.shrink(file, photos, ratio=0, max_change=0.0, out=tmp_path / "run", threads=1, progress=False)
    assert stages(result) == ["dense fp32", "dense int8"]
    assert result.pruned is None
    assert result.max_change == 0
    assert not result.held
    assert result.change > 0
    assert ends(result.path)[0] == ends(file)[0] == ("images", 1, ["batch", 3, 32, 32])
    assert [end[:2] for end in ends(result.path)] == [end[:2] for end in ends(file)]
    assert result.stages[0]["macs"] == result.stages[-1]["macs"]


def test_without_an_amount_the_best_network_within_two_points_is_searched_for(photos, tmp_path):
    file = detector(tmp_path / "net.onnx", size=(32, 32))
    search = {"minimize": "bytes", "probes": 0, "confirmations": 1}
    result = ps.shrink(file, photos, hours=0.02, out=tmp_path / "run", recipe={"budget": search}, **QUICK)
    assert result.max_change == 2
    recipe = (result.folder / "recipe.yaml").read_text()
    for line in ("max_drop: 2.0", "minimize: bytes", "time_limit: 1.2", "epochs: 1"):
        assert line in recipe
    assert result.metrics["budget"]["met"]
    assert result.stages[-1]["val_metric"] >= 98
    assert result.held == (result.change <= 2)
    assert result.path.stat().st_size < 0.7 * (result.folder / result.stages[0]["file"]).stat().st_size


@pytest.mark.parametrize(
    ("document", "given", "wanted"),
    [
        ({}, {"macs": 0.5}, {"prune": {"macs": 0.5}, "recover.epochs": 5, "budget": None}),
        ({"prune": {"macs": 0.3, "importance": "l1"}}, {"ratio": 0.2}, {"prune": {"ratio": 0.2, "importance": "l1"}}),
        ({"prune": {"macs": 0.3}}, {}, {"prune": {"macs": 0.3}, "budget": None}),
        ({"prune": {"macs": 0.3}}, {"ratio": 0}, {"prune": None, "recover": None}),
        ({"budget": {"max_drop": 5}}, {}, {"budget": {"max_drop": 5, "minimize": "latency"}}),
        ({"budget": {"max_drop": 5}}, {"max_change": 1}, {"budget": {"max_drop": 1, "minimize": "latency"}}),
        ({"budget": {"max_bytes": 9}}, {}, {"budget": {"max_bytes": 9}}),
        ({"budget": {"max_drop": 5}}, {"macs": 0.5}, {"budget": None, "prune": {"macs": 0.5}}),
        ({"recover": {"epochs": 7, "lr": 0.1}}, {"macs": 0.5}, {"recover.epochs": 7, "recover.lr": 0.1}),
        ({"recover": {"epochs": 7}}, {"macs": 0.5, "epochs": 2}, {"recover.epochs": 2, "recover.optimizer": "adamw"}),
        ({"quantize": None, "seed": 4}, {"macs": 0.5}, {"quantize": None, "seed": 4}),
    ],
)  # fmt: skip
def test_a_recipe_changes_single_fields_and_arguments_overrule_it(
    document, given, wanted, tmp_path, monkeypatch
):
    asked = {}

    def noted(network, images, *, recipe, **options):
        Recipe.parse(recipe)
        asked.update(recipe)
        raise errors.OperationError("the run", "it is enough", "go home")

    monkeypatch.setattr(shrinking, "compress", noted)
    images = ps.data.from_loaders(train=[torch.rand(4, 3, 32, 32)], val=[torch.rand(4, 3, 32, 32)])
    with pytest.raises(errors.OperationError, match="it is enough"):
        ps.shrink(ps.models.from_onnx(detector(tmp_path / "net.onnx")), images, recipe=document, **given)
    for name, value in wanted.items():
        section, _, key = name.partition(".")
        found = asked.get(section)
        assert (found[key] if key else found) == value


@pytest.mark.parametrize(
    ("key", "task", "change"),
    [
        ("accuracy", None, 3),
        ("metric", {"name": "imitation", "metric": "fidelity", "higher_is_better": True}, 3),
        ("metric", {"name": "regression", "metric": "MAE", "higher_is_better": False}, -3),
    ],
)
def test_a_change_is_what_the_metric_is_worse_by(key, task, change):
    rows = [{key: 90.0, "file": "dense.onnx"}, {key: 87.0, "file": "net.onnx"}]
    where = Path("run")
    result = shrinking.ShrinkResult(
        torch.nn.Identity(),
        where / "net.onnx",
        where / "report.html",
        where,
        {"stages": rows, "task": task},
        2.0,
    )
    assert result.change == change
    assert result.held == (change <= 2)
    assert result.pruned is None


def layers(path, shape, first):
    """Two convolutions behind what makes their input."""
    read = "n" if first else "x"
    nodes = [
        *first,
        node("Conv", [read, "w"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "v"], ["y"]),
    ]
    weights = {"w": random(8, 3 if first else 1, 3, 3), "v": random(4, 8, 3, 3)}
    return write(path, nodes, {"x": shape}, {"y": None}, weights)


def test_bad_input_says_what_to_do(photos, tmp_path):
    file = detector(tmp_path / "net.onnx")
    fixed = detector(tmp_path / "fixed.onnx", size=(32, 32))
    grey = layers(tmp_path / "grey.onnx", [1, 1, 32, 32], [])
    last = layers(
        tmp_path / "last.onnx", [1, 32, 32, 3], [node("Transpose", ["x"], ["n"], perm=[0, 3, 1, 2])]
    )
    pixels = layers(
        tmp_path / "pixels.onnx",
        (["batch", 3, 32, 32], TensorProto.UINT8),
        [node("Cast", ["x"], ["n"], to=TensorProto.FLOAT)],
    )
    for options, said in (
        ({"max_change": -1}, "max_change=-1"),
        ({"images": tmp_path / "nowhere"}, "nowhere"),
        ({"model": tmp_path / "nothing.onnx"}, "no such file"),
        ({"model": "resnet18"}, "its weights are random"),
        ({"model": grey}, "the file takes 1×32×32; pass channels='grey'"),
        ({"model": last}, r"the file takes 32×32×3; pass batches of that shape: pintsize.data.from_loaders"),
        ({"model": pixels}, "input x of float32: the file takes uint8; pass such, or cut the cast off"),
        ({"model": fixed, "size": 48}, "images of 3×48×48: the file takes 3×32×32; pass size='32x32'"),
    ):
        given = {"model": file, "images": photos, "macs": 0.5, "out": tmp_path / "run", **QUICK, **options}
        with pytest.raises(errors.PintsizeError, match=said):
            ps.shrink(given.pop("model"), given.pop("images"), **given)
    assert not (tmp_path / "run").exists()


def test_two_pictures_of_one_colour_are_enough(tmp_path):
    file = detector(tmp_path / "net.onnx", size=(32, 32))
    few = tmp_path / "few"
    few.mkdir()
    for number in range(2):
        Image.new("RGB", (32, 32), (90, 10, 200)).save(few / f"{number}.png")
    result = ps.shrink(file, few, ratio=0, out=tmp_path / "run", **QUICK)
    assert result.change < 5


def test_a_classifier_whose_last_layer_is_linear(tmp_path, photos):
    """paddle's: a softmax behind a linear layer, whose result [B, K] is no map."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c"], ["r"]), node("Conv", ["r", "v"], ["d"]),
        node("Relu", ["d"], ["q"]), node("GlobalAveragePool", ["q"], ["g"]),
        node("Flatten", ["g"], ["f"]), node("MatMul", ["f", "m"], ["s"]),
        node("Softmax", ["s"], ["y"], axis=-1),
    ]  # fmt: skip
    weights = {"w": random(8, 3, 3, 3), "v": random(12, 8, 3, 3), "m": random(12, 4, scale=2.0)}
    path = write(tmp_path / "a.onnx", nodes, {"x": ["n", 3, 32, 32]}, {"y": ["n", 4]}, weights)
    net = ps.models.from_onnx(path)
    assert len(net.heads) == 1
    result = ps.shrink(path, photos, macs=0.6, epochs=1, out=tmp_path / "run", progress=False)
    assert result.metrics["task"]["name"] == "imitation"
    assert result.stages[-1]["macs"] < 0.65 * result.stages[0]["macs"]
