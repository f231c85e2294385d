"""What is told of a run that goes on, from the files that the pipeline leaves on its way."""

import json
import os

import pytest

from pintsize.report.live import goes_on, unfinished
from pintsize.report.page import render
from pintsize.report.run import read
from pintsize.training.logbook import Logbook

EPOCHS = [
    {"epoch": n, "lr": 0.1, "train_loss": 1.0 / n, "val_loss": 2.0, "train_accuracy": 50.0, "val_accuracy": 40.0 + n}
    for n in (1, 2)
]  # fmt: skip
LOG = """time=2026-11-21T04:50:16.930Z elapsed=0 level=INFO logger=pintsize.run.compression msg="ResNet on digits" event=begin version=0.1.0
time=2026-11-21T04:50:26.093Z elapsed=9.1 level=INFO logger=pintsize msg="train: started" stage=train event=started
time=2026-11-21T04:51:53.411Z elapsed=96.5 level=INFO logger=pintsize msg="train: done in 87.3 s" stage=train event=done seconds=87.3
time=2026-11-21T04:51:53.412Z elapsed=96.5 level=INFO logger=pintsize msg="prune: started" stage=prune event=started
time=2026-11-21T04:55:52.084Z elapsed=0 level=INFO logger=pintsize.run.compression msg="ResNet on digits" event=begin version=0.1.0
time=2026-11-21T04:56:07.189Z elapsed=15.1 level=INFO logger=pintsize msg="train: done before" stage=train event=reused
time=2026-11-21T04:56:07.189Z elapsed=15.1 level=INFO logger=pintsize msg="recover: started" stage=recover event=started
"""  # noqa: E501


@pytest.fixture
def run(tmp_path):
    """Trained, and two epochs into the recovery; `prune` is of an earlier recipe."""
    (tmp_path / "recipe.yaml").write_text("model: {name: resnet20}\ndata: {name: digits}\n")
    (tmp_path / "log.txt").write_text(LOG)
    (tmp_path / "stages").mkdir()
    result = {"val_accuracy": 90.0, "history": EPOCHS[:1]}
    (tmp_path / "stages" / "train.json").write_text(json.dumps({"seconds": 87.3, "result": result}))
    (tmp_path / "stages" / "prune.json").write_text(
        json.dumps({"seconds": 1.0, "result": {"val_accuracy": 1.0}})
    )
    logbook = Logbook(tmp_path / "tensorboard" / "recover", 0)
    for epoch in EPOCHS:
        logbook.epoch(epoch)
    logbook.close()
    return tmp_path


def test_stages_epochs_and_histories(run):
    found, progress = unfinished(run)
    assert [(one.name, one.done, one.seconds, one.epochs) for one in progress] == [
        ("train", True, 87.3, 1),
        ("recover", False, None, 2),
    ]
    assert [one.val_accuracy for one in progress] == [90.0, pytest.approx(42.0)]
    assert found["histories"]["train"] == EPOCHS[:1]
    assert [epoch["epoch"] for epoch in found["histories"]["recover"]] == [1, 2]
    assert found["histories"]["recover"][1]["train_loss"] == pytest.approx(0.5)
    assert found["stages"] == []


def test_the_page_says_it(run):
    page = render(read(run, unfinished=True), live="1")
    assert (
        "train done, validation accuracy 90.00 %; recover goes on after 2 epochs, validation accuracy 42.00 %"
        in page
    )
    assert "<h1>resnet20 on digits</h1>" in page
    assert "loss and accuracy over 3 epochs" in page  # the training curves, as they are now


def test_metrics_of_an_earlier_start_are_not_shown(run):
    metrics = run / "metrics.json"
    metrics.write_text('{"format": 1}')
    os.utime(metrics, ns=(0, 10**9))
    assert goes_on(run)
    assert read(run, unfinished=True).progress
    os.utime(run / "recipe.yaml", ns=(0, 0))
    assert not goes_on(run)
    assert not read(run, unfinished=True).progress


def test_nothing_but_a_folder(tmp_path):
    assert unfinished(tmp_path)[1] == []
    assert "No stage of this run has ended yet." in render(read(tmp_path, unfinished=True), live="1")


def test_files_that_are_torn_are_left_out(run):
    (run / "stages" / "train.json").write_text('{"seconds": 87')
    (run / "recipe.yaml").write_text("model: {name")
    found, progress = unfinished(run)
    assert found["recipe"] == {}
    assert [(one.name, one.seconds) for one in progress] == [("train", None), ("recover", None)]


def test_a_run_of_another_task_is_told_in_its_metric(run):
    named = {"metric_name": "MAE", "metric_unit": "cm", "higher_is_better": False}
    epochs = [{"epoch": n, "train_loss": 1.0, "val_metric": 0.05 / n, **named} for n in (1, 2)]
    logbook = Logbook(run / "tensorboard" / "recover", 0)
    for epoch in epochs:
        logbook.epoch(epoch)
    logbook.close()
    marker = run / "stages" / "train.json"
    marker.write_text(json.dumps({"seconds": 87.3, "result": {"val_metric": 0.06, "history": epochs}}))
    assert (
        "train done, validation MAE 0.06 cm; recover goes on after 2 epochs, validation MAE 0.025 cm"
        in render(read(run, unfinished=True))
    )
    marker.write_text(json.dumps({"seconds": 87.3, "result": {}}))  # events alone do not name it
    page = render(read(run, unfinished=True))
    assert "recover goes on after 2 epochs, validation metric 0.025." in page
    assert "loss and metric over 2 epochs; best validation metric 0.025." in page
