"""`scan`, `sparsify`, `prune --rules` and `rounds` as a user runs them."""

import json

import pytest
from typer.testing import CliRunner

import pintsize as ps
from pintsize.cli.app import app
from pintsize.errors import PintsizeError
from pintsize.pruning import masks_of

SMALL = ["--data", "digits", "--limit", "200"]
TRAINING = ["--lr", "0.05", "--batch-size", "40"]
RECOVERY = ["--recover-epochs", "1", "--recover-lr", "0.01", "--recover-batch-size", "40"]


def pintsize(*args):
    """What a command prints as JSON; its errors are raised."""
    done = CliRunner().invoke(app, [*map(str, args), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refused(match, *args):
    with pytest.raises(PintsizeError, match=match):
        CliRunner().invoke(app, [*map(str, args)], catch_exceptions=False)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    path = tmp_path_factory.mktemp("dense") / "dense.safetensors"
    pintsize("train", "--model", "resnet-demo", *SMALL, *TRAINING, "--epochs", 2, "--out", path)
    return path


def test_scan_writes_curves_picture_and_rules_that_prune_takes(dense, tmp_path):
    scan, plot, rules = tmp_path / "scan.json", tmp_path / "scan.png", tmp_path / "net.rules"
    options = ["--level", "group", "--ratios", "0.2,0.5", "--images", 60, "--out", scan, "--plot", plot]
    told = pintsize("scan", "--model", dense, *SMALL, *options, "--rules", rules, "--max-drop", 30)
    assert told["scan"]["ratios"] == [0.2, 0.5]
    assert plot.stat().st_size > 1000
    matched = pintsize("prune", "--model", dense, *SMALL, "--rules", rules, "--dry-run")["rules"]
    assert matched["fc.weight"] is None
    assert any(matched.values())
    pruned = tmp_path / "pruned.safetensors"
    after = pintsize("prune", "--model", dense, *SMALL, "--rules", rules, "--out", pruned)
    assert after["after"]["params"] < after["before"]["params"]
    assert sum(p.numel() for p in ps.load(pruned).parameters()) == after["after"]["params"]
    refused("it exists", "scan", "--model", dense, *SMALL, *options, "--rules", rules, "--max-drop", 30)


def test_rules_with_retraining_between(dense, tmp_path):
    rules, out = tmp_path / "net.rules", tmp_path / "out.safetensors"
    rules.write_text("layer3\\..*conv1\\.weight,0.25;0.5,l2norm\n")
    told = pintsize("prune", "--model", dense, *SMALL, "--rules", rules, "--out", out, *RECOVERY)
    assert [stage["name"] for stage in told["stages"]] == ["dense", "stage 1", "stage 2"]
    assert [stage["filters"]["layer3.0.conv1"] for stage in told["stages"]] == [64, 48, 32]
    assert all(stage["accuracy"] is not None for stage in told["stages"])


def test_rounds(dense, tmp_path):
    out = tmp_path / "out.safetensors"
    told = pintsize(
        "rounds", "--model", dense, *SMALL, "--ratios", "layer1.*=0.25,layer3.*=0.5", "--rounds", 1, "--out", out,
        "--folder", tmp_path / "rounds", *RECOVERY,
    )  # fmt: skip
    assert [row["name"] for row in told["rounds"]] == ["dense", "round 1"]
    assert told["rounds"][1]["filters"]["layer3.0.conv1"] == 32
    assert told["rounds"][1]["bytes"] == (tmp_path / "rounds" / "round-1.onnx").stat().st_size


def test_sparsify_at_once_and_in_training(dense, tmp_path):
    out = tmp_path / "sparse.safetensors"
    told = pintsize("sparsify", "--model", dense, "--density", 0.1, "--min-density", 0.01, "--out", out)
    masks = masks_of(ps.load(out))
    assert sum(int(m.sum()) for m in masks.values()) == sum(one["kept"] for one in told["layers"])
    assert told["density"] == pytest.approx(0.1, abs=1e-5)
    trained = pintsize(
        "sparsify", "--model", "resnet-demo", *SMALL, "--density", 0.1, "--importance", "ecs", "--epoch", 1,
        "--epochs", 2, *TRAINING, "--out", out,
    )  # fmt: skip
    assert [round(entry["density"], 3) for entry in trained["history"]] == [1.0, 0.1]
    assert trained["val_accuracy"] is not None


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["sparsify", "--density", "0"], "nothing would be left"),
        (["sparsify", "--density", "1"], "nothing would be removed"),
        (["sparsify", "--density", "0.5", "--importance", "snap"], "snip"),
        (["sparsify", "--density", "0.5", "--importance", "snip"], "data"),
        (["sparsify", "--density", "0.5", "--lr", "0.1"], "pass --epochs"),
        (["sparsify", "--density", "0.5", "--epochs", "1"], "pass --data"),
        (["sparsify", "--densities", "1=0.5"], "epoch:density"),
        (["prune", "--rules", "missing.rules", "--image-size", "8"], "missing.rules"),
        (["prune", "--ratio", "0.5", "--dry-run", "--image-size", "8"], "go with --rules"),
        (["prune", "--rules", "x", "--ratio", "0.5", "--image-size", "8"], "--ratio with --rules"),
        (["scan", *SMALL, "--rules", "a.rules"], "without the other"),
        (["scan", *SMALL, "--epochs", "1"], "--level group"),
        (["scan", *SMALL, "--ratios", "0.1;0.2"], "list of numbers"),
        (["rounds", *SMALL, "--ratios", "0.5"], "6 blocks"),
        (["rounds", *SMALL, "--ratios", "nowhere=0.5"], "matches no module"),
    ],
)
def test_mistakes(dense, args, match):
    refused(match, args[0], "--model", dense, *args[1:])


def test_a_regularised_training_can_be_turned_off(tmp_path):
    told = pintsize(
        "train", "--model", "resnet-demo", *SMALL, *TRAINING, "--epochs", 1, "--no-regularize",
        "--out", tmp_path / "over.safetensors",
    )  # fmt: skip
    assert len(told["history"]) == 1
