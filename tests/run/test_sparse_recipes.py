"""Recipes that prune by masks, by rules and in rounds, run from end to end on a few digits."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import InputError
from pintsize.pruning import masks_of
from pintsize.recipe.recipe import Recipe
from pintsize.run import networks
from pintsize.run.stages.stages import Stages
from pintsize.storage.folder import RunFolder

TRAINING = {"epochs": 2, "lr": 0.02, "batch_size": 40, "augment": False}
RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def digits():
    return ps.data.load("digits", limit=200)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Dropout(0.3),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def run(digits, tmp_path, **sections):
    recipe = {"train": TRAINING, "recover": TRAINING, "quantize": None, "export": {"threads": 1}, **sections}
    return ps.compress(network(), digits, recipe=recipe, out=tmp_path, progress=False)


def test_sparse_then_int8(digits, tmp_path):
    options = {"density": 0.2, "schedule": "polynomial", "every": 1}
    result = run(digits, tmp_path, sparsify=options, quantize={"calibration_images": 50})
    assert [row["name"] for row in result.stages] == ["dense fp32", "sparse fp32", "sparse int8"]
    sizes = [row["compressed_bytes"] for row in result.stages]
    assert sizes[0] > 2 * sizes[1] > 2 * sizes[2] > 0
    assert sizes[2] == (tmp_path / "net.pint").stat().st_size
    assert "as .pint" in str(result.table())
    masks = masks_of(ps.load(tmp_path / "pruned.safetensors", model=network()))
    assert sum(int(m.sum()) for m in masks.values()) == round(0.2 * (72 + 576 + 1280))
    assert result.metrics["histories"]["sparsify"][-1]["density"] == pytest.approx(0.2, abs=1e-3)


def test_sparse_from_scratch_after_one_epoch(digits, tmp_path):
    options = {"density": 0.3, "importance": "ecs", "epoch": 1, "from_scratch": True}
    result = run(digits, tmp_path, sparsify=options, recover=None)
    assert [entry["density"] for entry in result.metrics["histories"]["sparsify"]] == [
        1.0,
        pytest.approx(0.3, abs=1e-3),
    ]


def test_rules_in_stages(digits, tmp_path):
    result = run(digits, tmp_path, rules={"text": "3\\.weight,0.25;0.5,l2norm", "baseline": True}, train={
        **TRAINING, "regularize": False})  # fmt: skip
    assert [row["name"] for row in result.stages] == ["dense fp32", "dense fp32, trained on", "pruned fp32"]
    assert [row["filters"]["3"] for row in result.metrics["rounds"]] == [8, 8, 6, 4]
    assert set(result.metrics["histories"]) == {"train", "dense, trained on", "stage 1", "stage 2"}
    assert (tmp_path / "net.rules").read_text() == "3\\.weight,0.25;0.5,l2norm\n"


def test_rules_from_a_scan(digits, tmp_path):
    result = run(digits, tmp_path, rules={"max_drop": 20, "level": "group", "images": 50})
    assert result.stages[-1]["params"] < result.stages[0]["params"]
    assert (tmp_path / "figures" / "sensitivity.png").is_file()
    page = result.report.read_text()
    assert page.count('aria-label="Sensitivity to pruning') == 1
    assert "<img" not in page  # every figure is drawn
    assert "l2norm" in (tmp_path / "net.rules").read_text()


def test_rounds_each_measured_and_resumed(digits, tmp_path):
    options = {"ratios": {"0": 0.25, "3": 0.5}, "rounds": 2, "baseline": True}
    result = run(digits, tmp_path, rounds=options)
    names = ["dense fp32", "dense fp32, trained on", "round 1 fp32", "pruned fp32"]
    assert [row["name"] for row in result.stages] == names
    assert [row["filters"]["3"] for row in result.metrics["rounds"]] == [8, 8, 4, 2]
    params = [row["params"] for row in result.stages]
    assert params[0] == params[1] > params[2] > params[3]
    assert all(row["val_accuracy"] is not None for row in result.stages)
    again = run(digits, tmp_path, rounds=options)
    assert again.stages == result.stages
    page = again.report.read_text()
    assert page.count('aria-label="Rounds of pruning') == page.count('aria-label="Filters per layer') == 1
    assert "<img" not in page
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert len(saved["rounds"]) == 4


@pytest.mark.parametrize(
    ("sections", "match"),
    [
        ({"sparsify": {"density": 0.5}, "rounds": {"ratios": [0.5]}}, "sparsify and rounds are two ways"),
        ({"sparsify": {"densty": 0.5}}, "did you mean density"),
        ({"sparsify": {"density": 0.5, "schedule": "sometimes"}}, "sometimes"),
        ({"sparsify": {"density": 0}}, "nothing would be left"),
        ({"sparsify": {"density": 0.5, "ignore": ["nowhere"]}}, "nowhere"),
        ({"sparsify": {"density": 0.5, "epoch": 9}}, "epoch 9"),
        ({"rules": {"text": "a,1,abs"}}, "vanish"),
        ({"rules": {"text": "nothing,0.5,abs"}}, "matches no parameter"),
        ({"rules": {"max_drop": 1, "text": "a,0.5,abs"}}, "both are given"),
        ({"rounds": {"ratios": [0.5]}}, "2 blocks"),
        ({"rounds": {"ratios": [0.5, 0.5], "combine": "sum"}}, "sum"),
        ({"rounds": {"ratios": [0.5, 0.5], "importance": "l3"}}, "l3"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(digits, tmp_path, sections, match, monkeypatch):
    monkeypatch.setattr("pintsize.run.stages.stages.train", None)
    with pytest.raises(InputError, match=match):
        run(digits, tmp_path, **sections)


@pytest.mark.parametrize(
    "name",
    [
        "sensitivity-mobilenetv2", "rounds-resnet18", "rounds-vgg16-bn",
        *(pytest.param(name, marks=pytest.mark.slow) for name in (
            "ecs-vgg16", "snip-resnet34", "overfit-alexnet", "sparse-int8", "rounds-vgg16", "rounds-resnet18-2",
            "rounds-resnet18-3", "rounds-resnet18-4",
        )),
    ],
)  # fmt: skip
def test_shipped_recipes_fit_their_networks(name, digits, tmp_path):
    recipe = Recipe.load(RECIPES / f"{name}.yaml")
    if recipe.quantize is not None and recipe.quantize.method == "mse":
        # what fits does not hang on the ranges: of 57 M weights those of the least error take most of a minute
        quantize = recipe.quantize.model_copy(update={"method": "minmax"})
        recipe = recipe.model_copy(update={"quantize": quantize})
    model = networks.build(recipe.model, image_shape=digits.image_shape, num_classes=10)
    with RunFolder(tmp_path).open() as folder:
        Stages(folder, recipe, model, digits, progress=False).rehearse()
