"""Rounds and rule files: cut, retrain, keep, measure; a run that was stopped goes on."""

import copy

import pytest
import torch

import pintsize as ps
from pintsize.errors import InputError, PintsizeError
from pintsize.pruning import masks_of
from pintsize.pruning.rules.language import Rules
from pintsize.pruning.rules.run import prune_by_rules
from pintsize.pruning.staged.rounds import prune_rounds

RATIOS = [0.25, 0.25, 0.25, 0.25, 0.5, 0.5]


@pytest.fixture(scope="module")
def digits():
    return ps.data.load("digits", limit=200)


@pytest.fixture(scope="module")
def trained(digits):
    torch.manual_seed(0)
    model = ps.models.create("resnet-demo", in_channels=1)
    ps.train(model, digits, epochs=2, lr=0.05, augment=False, progress=False)
    return model


def rounds_of(model, digits, **options):
    settings = {"rounds": 2, "epochs": 1, "lr": 0.01, "batch_size": 50, "progress": False, "measure": False}
    return prune_rounds(model, digits, ratios=RATIOS, **{**settings, **options})


def test_each_round_takes_its_share_and_everything_is_measured(trained, digits, tmp_path):
    model = copy.deepcopy(trained)
    result = rounds_of(model, digits, folder=tmp_path, measure=True, baseline=True, threads=1)
    assert [row.name for row in result.rounds] == ["dense", "dense, trained on", "round 1", "round 2"]
    dense, longer, first, last = result.rounds
    assert (dense.filters["layer1.0.conv1"], first.filters["layer1.0.conv1"], last.filters["layer1.0.conv1"]) == (
        16, 12, 9,
    )  # fmt: skip
    assert last.filters["layer3.1.conv2"] == 16
    assert last.filters["fc"] == 10
    assert dense.params == longer.params > first.params > last.params
    assert dense.macs > first.macs > last.macs
    assert dense.bytes > first.bytes > last.bytes
    assert last.params == ps.profile(model, torch.rand(2, 1, 8, 8)).params
    assert all(row.latency_ms > 0 and row.peak_bytes > row.bytes for row in result.rounds)
    with ps.open_runtime(tmp_path / "round-2.onnx", threads=1) as runtime:
        assert ps.evaluate(runtime, digits.test) == last.accuracy
    assert last.val_accuracy == ps.evaluate(model, digits.val)
    assert len(result.histories["dense, trained on"]) == 2
    assert len(result.histories["round 2"]) == 1
    assert result.drop == pytest.approx(longer.accuracy - last.accuracy)
    assert "round 2" in result.table()
    assert set(result.figures()) == {"rounds", "filters"}


def test_best_and_mean_are_over_the_epochs_of_the_round(trained, digits):
    result = rounds_of(copy.deepcopy(trained), digits, rounds=1, epochs=3)
    values = [entry["val_accuracy"] for entry in result.histories["round 1"]]
    assert result.rounds[1].best_val_accuracy == max(values)
    assert result.rounds[1].mean_val_accuracy == pytest.approx(sum(values) / 3)
    assert result.rounds[1].accuracy is None


def test_a_stopped_run_goes_on_to_the_same_weights(trained, digits, tmp_path, monkeypatch):
    whole, stopped = copy.deepcopy(trained), copy.deepcopy(trained)
    rounds_of(whole, digits, folder=tmp_path / "whole")
    from pintsize.pruning.staged import staged

    calls = []

    def failing(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return ps.train(*args, **options)

    monkeypatch.setattr(staged, "train", failing)
    with pytest.raises(KeyboardInterrupt):
        rounds_of(stopped, digits, folder=tmp_path / "stopped")
    again = copy.deepcopy(trained)
    calls.clear()
    calls.append(1)
    calls.append(1)
    rounds_of(again, digits, folder=tmp_path / "stopped")
    assert len(calls) == 3  # round 1 was not trained again
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert [s.kind for s in ps_record(again)] == ["prune", "prune"]


def ps_record(model):
    from pintsize.storage.record import record

    return record(model)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rounds": 0}, "number of rounds"),
        ({"combine": "sum"}, "combine"),
        ({"importance": "l3"}, "importance"),
        ({"lerning_rate": 1}, "lerning_rate"),
        ({"lr": -1}, "lr"),
        ({"epochs": -1}, "epochs"),
    ],
)
def test_bad_options_change_nothing(trained, digits, options, match):
    model = copy.deepcopy(trained)
    with pytest.raises(PintsizeError, match=match):
        rounds_of(model, digits, **options)
    assert not ps_record(model)


def test_rules_are_carried_out_stage_by_stage_with_training_between(trained, digits, tmp_path):
    model = copy.deepcopy(trained)
    file = tmp_path / "net.rules"
    Rules.parse("layer3\\.[01]\\.conv1\\.weight,0.25;0.5,l2norm\nfc\\.weight,0.5,abs").save(file)
    result = prune_by_rules(
        model, digits, file, epochs=1, lr=0.01, batch_size=50, progress=False, measure=False, folder=tmp_path / "run"
    )  # fmt: skip
    assert [row.filters["layer3.0.conv1"] for row in result.rounds] == [64, 48, 32]
    assert result.rounds[1].density < 1
    assert float(masks_of(model)["fc.weight"].float().mean()) == 0.5
    assert not model.get_parameter("fc.weight")[~masks_of(model)["fc.weight"]].any()
    again = copy.deepcopy(trained)
    prune_by_rules(
        again, digits, file, epochs=1, lr=0.01, batch_size=50, progress=False, measure=False, folder=tmp_path / "run"
    )  # fmt: skip
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_a_rule_that_matches_nothing_is_told_before_anything_happens(trained, digits):
    model = copy.deepcopy(trained)
    with pytest.raises(InputError, match="line 1: nothing"):
        prune_by_rules(model, digits, Rules.parse("nothing,0.5,abs"), epochs=0)
    assert not ps_record(model)
