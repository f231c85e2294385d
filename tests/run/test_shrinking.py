"""A file and pictures in, a smaller file out: no labels, no training code."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import pintsize as ps
from onnx_graphs import detector, ends
from pintsize import errors

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
    assert dense["metric"] == 100
    assert last["metric_name"] == "fidelity"
    assert result.change == dense["metric"] - last["metric"]
    assert 0 < result.change < 100
    assert result.max_change is None
    assert result.held
    assert result.path.parent == result.folder
    assert stages(result) == ["dense", "pruned", "int8"]


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


def test_without_channels_to_remove_it_is_quantized_only(photos, tmp_path):
    file = detector(tmp_path / "net.onnx")
    result = ps.shrink(file, photos, ratio=0, max_change=0.0, out=tmp_path / "run", **QUICK)
    assert result.pruned is None
    assert result.max_change == 0
    assert not result.held
    assert result.change > 0
    assert ends(result.path) == ends(file)
    assert result.stages[0]["macs"] == result.stages[-1]["macs"]
    assert result.path.stat().st_size < file.stat().st_size


def test_without_an_amount_the_best_network_within_two_points_is_searched_for(photos, tmp_path):
    file = detector(tmp_path / "net.onnx")
    result = ps.shrink(
        file, photos, hours=0.001, out=tmp_path / "run", **QUICK, recipe={"budget": {"minimize": "macs"}}
    )
    assert result.max_change == 2
    budget = result.metrics["budget"]
    assert budget["max_drop"] == 2
    assert budget["minimize"] == "macs"
    assert result.held == (result.change <= 2)
    assert ends(result.path) == ends(file)


def test_bad_input_says_what_to_do(photos, tmp_path):
    file = detector(tmp_path / "net.onnx")
    fixed = detector(tmp_path / "fixed.onnx", size=(32, 32))
    for options, said in (
        ({"max_change": -1}, "max_change=-1"),
        ({"images": tmp_path / "nowhere"}, "nowhere"),
        ({"model": tmp_path / "nothing.onnx"}, "no such file"),
        ({"model": "resnet18"}, "its weights are random"),
        ({"model": fixed, "size": 48}, "48"),
    ):
        given = {"model": file, "images": photos, "macs": 0.5, "out": tmp_path / "run", **QUICK, **options}
        with pytest.raises(errors.PintsizeError, match=said):
            ps.shrink(given.pop("model"), given.pop("images"), **given)


def test_a_file_of_fixed_size_tells_the_size(photos, tmp_path):
    fixed = detector(tmp_path / "fixed.onnx", size=(32, 32))
    result = ps.shrink(fixed, photos, ratio=0, out=tmp_path / "run", **{**QUICK, "size": None})
    assert onnxruntime.InferenceSession(result.path).get_inputs()[0].shape == ["batch", 3, 32, 32]


def test_two_images_are_too_few_and_one_colour_is_enough(tmp_path):
    file = detector(tmp_path / "net.onnx")
    few = tmp_path / "few"
    few.mkdir()
    for number in range(2):
        Image.new("RGB", (32, 32), (90, 10, 200)).save(few / f"{number}.png")
    with pytest.raises(errors.InputError) as told:
        ps.shrink(file, few, ratio=0, out=tmp_path / "run", **QUICK)
    assert "images" in str(told.value)
    for number in range(2, 12):
        Image.new("RGB", (32, 32), (90, 10, 200)).save(few / f"{number}.png")
    result = ps.shrink(file, few, macs=0.7, out=tmp_path / "run", **QUICK)
    assert result.change < 50
