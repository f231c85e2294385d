"""Sweeps: what is repeated, what is lost, what is compared."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from pintsize.errors import InputError, MissingExtra, OperationError
from pintsize.run import compression as pipeline
from pintsize.search import sweep as sweeps
from pintsize.search.asha import Asha, Stopped
from pintsize.search.sweep import sweep
from pintsize.storage.locks import one_process

RECIPE = "recipe: {model: resnet-demo, data: digits}\n"
GRID = RECIPE + "grid: {seed: [0, 1, 2, 3]}\n"
DEEP = "[" * 200_000
NESTED = json.loads("[" * 600 + "]" * 600)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(GRID)
    return path


@pytest.fixture
def measured(monkeypatch):
    """Runs that measure at once; what they are to raise, by seed."""
    calls, fails = [], {}

    def compress(*, recipe, out, **_):
        calls.append(recipe.seed)
        if recipe.seed in fails:
            raise fails[recipe.seed]
        stage = {
            "name": "dense int8",
            "accuracy": 90.0 + recipe.seed,
            "val_accuracy": 90.0 + recipe.seed % 2,
            "macs": 5,
            "params": 3,
            "bytes": 100 * (recipe.seed + 1),
            "file": "net.onnx",
            "latency": {"median_ms": 1.0},
        }
        metrics = {"format": 1, "machine": {}, "recipe": recipe.model_dump(mode="json"), "stages": [stage]}
        (out / "metrics.json").write_text(json.dumps(metrics))

    monkeypatch.setattr(pipeline, "compress", compress)
    return calls, fails


@pytest.fixture
def runs(measured, monkeypatch):
    """The same, of which nothing is drawn: that takes a second, and has a test of its own."""
    monkeypatch.setattr("pintsize.report.compare", lambda folders, out: out)
    monkeypatch.setattr("pintsize.viz.to_png", lambda figure, path: None)
    return measured


def test_no_trial_that_is_over_is_repeated(file, runs, tmp_path):
    calls, _ = runs
    first = sweep(file, out=tmp_path / "o", engine="serial")
    assert sweep(file, out=tmp_path / "o", engine="serial").points == first.points
    assert calls == [0, 1, 2, 3]
    (tmp_path / "o" / "trials" / "seed-2" / "metrics.json").unlink()
    file.write_text(GRID.replace("3]", "3, 4]"))
    sweep(file, out=tmp_path / "o", engine="serial")
    assert sorted(calls[4:]) == [2, 4]


def test_a_failure_is_its_trials_alone_and_comes_last_the_next_time(file, runs, tmp_path):
    calls, fails = runs
    lack = RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    )
    fails.update({0: lack, 1: OperationError("x", "it broke", "mend it")})
    found = sweep(file, out=tmp_path / "o", engine="serial")
    assert [t.state for t in found.trials] == ["failed", "failed", "done", "done"]
    assert "ran out of memory: lower train.batch_size" in found.trials[0].hint
    assert (found.trials[1].reason, found.trials[1].hint) == ("x: it broke; mend it", "")
    fails.clear()
    file.write_text(GRID.replace("3]", "3, 4]"))
    assert {t.state for t in sweep(file, out=tmp_path / "o", engine="serial").trials} == {"done"}
    assert calls[4:] == [4, 0, 1]


def test_the_front_is_by_validation_accuracy(file, measured, tmp_path):
    found = sweep(file, out=tmp_path / "o", engine="serial")
    assert found.front("bytes") == [
        "seed-0",
        "seed-1",
    ]  # seeds 2 and 3 are better on the test images, and larger
    assert "seed-1  done   front" in found.table()
    document = json.loads((tmp_path / "o" / "sweep.json").read_text())
    assert document["front"]["bytes"] == ["seed-0", "seed-1"]
    assert document["points"]["seed-3"]["accuracy"] == 93.0
    assert found.report.is_file()
    assert (tmp_path / "o" / "frontier.png").is_file()
    with pytest.raises(InputError, match="cost 'size'"):
        found.front("size")


def test_the_log_of_a_sweep_is_its_own(file, runs, tmp_path):
    sweep(file, out=tmp_path / "o", engine="serial")
    lines = (tmp_path / "o" / "log.txt").read_text().splitlines()
    assert all("logger=pintsize.search" in line for line in lines)
    assert sum("event=done" in line for line in lines) == 4


def test_engines(file, runs, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="engine 'slurm'"):
        sweep(file, out=tmp_path / "o", engine="slurm")
    with pytest.raises(InputError, match="address"):
        sweep(file, out=tmp_path / "o", engine="serial", address="here:1")
    monkeypatch.setattr(sweeps.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"pintsize\[ray\]"):
        sweep(file, out=tmp_path / "o", engine="ray")
    assert len(sweep(file, out=tmp_path / "o").points) == 4  # without Ray, the same file runs here


def test_one_sweep_at_a_time_in_a_folder(file, runs, tmp_path):
    with one_process(tmp_path / "o"), pytest.raises(OperationError, match="another process is running"):
        sweep(file, out=tmp_path / "o", engine="serial")


def test_halving_lets_the_best_third_go_on_whoever_asks(tmp_path):
    def reach(trial, epoch, accuracy):
        rule = Asha(tmp_path, trial, stage="recover", grace=1, factor=3)
        rule("train", {"epoch": epoch, "val_accuracy": 0.0})  # another stage
        rule("recover", {"epoch": epoch, "val_accuracy": accuracy})

    reach("a", 1, 50.0)  # the first one is the best so far
    reach("b", 1, 60.0)
    with pytest.raises(Stopped, match=r"55\.00 % after epoch 1 of recover; going on takes 60\.00 %"):
        reach("c", 1, 55.0)
    for trial, accuracy in (("d", 10.0), ("e", 20.0)):
        with pytest.raises(Stopped):
            reach(trial, 1, accuracy)
    reach("f", 1, 58.0)  # of six, two go on
    reach("a", 2, 1.0)  # no rung
    reach("a", 3, 50.0)
    with pytest.raises(Stopped):
        reach("b", 3, 40.0)


def test_values_of_other_recipes_stop_nobody(file, runs, tmp_path):
    rung = tmp_path / "o" / "rungs" / "train-1"
    rung.mkdir(parents=True)
    (rung / "seed-0-00000000.json").write_text("99.0")
    sweep(file, out=tmp_path / "o", engine="serial")
    assert list(rung.iterdir()) == []


@pytest.mark.parametrize("content", ["x", "", "null", "true", "[1]", "NaN", "1e999", DEEP])
def test_a_damaged_value_at_a_rung_stops_nobody(tmp_path, content):
    rung = tmp_path / "train-1"
    rung.mkdir()
    (rung / "seed-0.json").write_text(content)
    rule = Asha(tmp_path, "seed-1", stage="train", grace=1, factor=2)
    rule("train", {"epoch": 1, "val_accuracy": 50.0})
    rule = Asha(tmp_path, "seed-2", stage="train", grace=1, factor=2)
    with pytest.raises(Stopped, match="going on takes 50"):  # those that can be read still count
        rule("train", {"epoch": 1, "val_accuracy": 40.0})


@pytest.mark.parametrize("link", ["trials/seed-0", "shared", "rungs", "log.txt"])
def test_no_trial_writes_through_a_link(file, runs, tmp_path, link):
    calls, _ = runs
    out, outside = tmp_path / "o", tmp_path / "outside"
    outside.mkdir()
    (out / link).parent.mkdir(parents=True, exist_ok=True)
    (out / link).symlink_to(outside / "there")
    with pytest.raises(InputError, match="it is a link out of"):
        sweep(file, out=out, engine="serial")
    assert (calls, list(outside.iterdir())) == ([], [])


@pytest.mark.parametrize(
    "change",
    [{"starts": "x"}, {"changes": []}, {"reason": None}, {"unknown": 1}, {"changes": {"seed": NESTED}}],
)
def test_a_record_that_cannot_be_is_none(file, runs, tmp_path, change):
    calls, _ = runs
    sweep(file, out=tmp_path / "o", engine="serial")
    record = tmp_path / "o" / "trials" / "seed-1" / "trial.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), **change}))
    sweep(file, out=tmp_path / "o", engine="serial")
    assert calls[4:] == [1]


@pytest.mark.parametrize("content", [DEEP, "[]", "3", '{"name": ', "\udcff"])
def test_a_record_that_is_damaged_is_none(file, runs, tmp_path, content):
    calls, _ = runs
    sweep(file, out=tmp_path / "o", engine="serial")
    record = tmp_path / "o" / "trials" / "seed-1" / "trial.json"
    record.write_text(content, errors="surrogateescape")
    found = sweep(file, out=tmp_path / "o", engine="serial")
    assert calls[4:] == [1]
    assert {trial.state for trial in found.trials} == {"done"}


def test_a_record_that_is_far_too_long_is_not_read(file, runs, tmp_path):
    calls, _ = runs
    sweep(file, out=tmp_path / "o", engine="serial")
    record = tmp_path / "o" / "trials" / "seed-1" / "trial.json"
    with record.open("ab") as stream:
        stream.write(b" " * 2**26)  # still the record, were it read
    sweep(file, out=tmp_path / "o", engine="serial")
    assert calls[4:] == [1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: text.replace('"format"', '"from"'),
        lambda text: text.replace('"val_accuracy"', '"accuracies"'),
        lambda text: json.dumps({**json.loads(text), "stages": []}),
        lambda text: DEEP,
    ],
)
def test_a_trial_whose_metrics_are_damaged_is_run_again(file, runs, tmp_path, damage):
    calls, _ = runs
    first = sweep(file, out=tmp_path / "o", engine="serial")
    metrics = tmp_path / "o" / "trials" / "seed-1" / "metrics.json"
    metrics.write_text(damage(metrics.read_text()))
    assert sweep(file, out=tmp_path / "o", engine="serial").points == first.points
    assert calls[4:] == [1]


def test_damaged_metrics_are_written_anew_from_the_stages_that_are_done(small, tmp_path):
    file, out = small, tmp_path / "o"
    first = sweep(file, out=out, engine="serial", progress=False)
    folder = out / "trials" / "weights-4"
    for name in ("metrics.json", "record.json"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-9])
    stages = {marker: marker.stat().st_mtime_ns for marker in (folder / "stages").glob("*.json")}
    assert sweep(file, out=out, engine="serial", progress=False).points == first.points
    assert {marker: marker.stat().st_mtime_ns for marker in stages} == stages


def test_a_failure_tells_no_secret(file, runs, tmp_path, monkeypatch):
    _, fails = runs
    monkeypatch.setenv("HF_TOKEN", "hf_abcdef123456")
    fails[0] = OperationError("https://me:secret@host/x", "it answered hf_abcdef123456", "try again")
    found = sweep(file, out=tmp_path / "o", engine="serial")
    for text in (found.trials[0].reason, (tmp_path / "o" / "sweep.json").read_text()):
        assert "secret" not in text
        assert "hf_abcdef" not in text


def test_halving_stops_a_trial_of_a_sweep_that_falls_behind(small, tmp_path):
    text = SMALL.replace("epochs: 1", "epochs: 2").replace("limit: 100", "limit: 600")
    text = text.replace("quantize.weights: [8, 4]", "train.lr: [0.05, 0.000001]")
    small.write_text(text + "asha: {stage: train, grace: 1, factor: 2}\n")
    found = sweep(small, out=tmp_path / "o", engine="serial", progress=False)
    assert [trial.state for trial in found.trials] == ["done", "stopped"]
    assert "after epoch 1 of train; going on takes" in found.trials[1].reason
    again = sweep(small, out=tmp_path / "o", engine="serial", progress=False)
    assert [trial.starts for trial in again.trials] == [1, 1]


SMALL = """
recipe:
  model: small_network:make
  data: {name: digits, limit: 100}
  train: {epochs: 1, lr: 0.05, batch_size: 32, precision: fp32}
  quantize: {calibration_images: 32}
grid:
  quantize.weights: [8, 4]
"""
NETWORK = """
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)
    )
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A sweep of a network that is exported in a second."""
    (tmp_path / "small_network.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "s.yaml").write_text(SMALL)
    yield tmp_path / "s.yaml"
    sys.modules.pop("small_network", None)


def test_a_sweep_that_is_killed_goes_on_with_what_is_left(small, tmp_path):
    """The real thing, on the command line: SIGKILL in the second trial."""
    out = tmp_path / "o"
    command = [sys.executable, "-c", "from pintsize.cli import main; main()", "sweep", str(small), "--out", str(out),
               "--engine", "serial", "--json"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    second = out / "trials" / "weights-4" / "quantized.safetensors"
    deadline = time.monotonic() + 600
    while not second.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = out / "trials" / "weights-8" / "metrics.json"
    before = done.stat().st_mtime_ns
    again = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found = json.loads(again.stdout)
    assert [trial["state"] for trial in found["trials"]] == ["done", "done"]
    assert [trial["starts"] for trial in found["trials"]] == [1, 2]
    assert done.stat().st_mtime_ns == before
    assert found["points"]["weights-4"]["bytes"] < found["points"]["weights-8"]["bytes"]
    log = (out / "trials" / "weights-4" / "log.txt").read_text()
    assert "train: done before by another run" in log  # the dense network was trained once


def judged_in(monkeypatch, unit_of):
    """Runs that measure errors; in which unit, by seed."""

    def compress(*, recipe, out, **_):
        named = {"metric_name": "MAE", "metric_unit": unit_of(recipe.seed)}
        stage = {
            "name": "dense int8", "metric": 10.0 - recipe.seed, "val_metric": 10.0 - recipe.seed % 2, "macs": 5, "params": 3,
            "bytes": 100 * (recipe.seed + 1), "file": "net.onnx", "latency": {"median_ms": 1.0}, **named,
        }  # fmt: skip
        task = {
            "name": "regression",
            "metric": "MAE",
            "unit": unit_of(recipe.seed),
            "higher_is_better": False,
        }
        metrics = {
            "format": 1,
            "machine": {},
            "task": task,
            "recipe": recipe.model_dump(mode="json"),
            "stages": [stage],
        }
        (out / "metrics.json").write_text(json.dumps(metrics))

    monkeypatch.setattr(pipeline, "compress", compress)


def test_of_errors_the_least_are_on_the_front_and_told_in_their_unit(file, monkeypatch, tmp_path):
    judged_in(monkeypatch, lambda _: "cm")
    found = sweep(file, out=tmp_path / "o", engine="serial")
    assert found.front("bytes") == ["seed-0", "seed-1"]
    assert re.search(r"seed-1  done   front +9\.00 cm +9\.00 cm", found.table())
    assert "%" not in found.table()
    assert (tmp_path / "o" / "frontier.png").is_file()


def test_each_metric_has_a_front_of_its_own(file, monkeypatch, tmp_path):
    judged_in(monkeypatch, lambda seed: "cm" if seed < 2 else "mm")
    found = sweep(file, out=tmp_path / "o", engine="serial")
    assert found.front("bytes") == ["seed-0", "seed-1", "seed-2", "seed-3"]
    assert {path.name for path in (tmp_path / "o").glob("*.png")} == {"frontier.png", "frontier-2.png"}
    assert found.report.is_file()


def test_halving_of_errors_lets_the_least_go_on(tmp_path):
    def reach(trial, error):
        rule = Asha(tmp_path, trial, stage="recover", grace=1, factor=2)
        named = {"metric_name": "MAE", "metric_unit": "cm", "higher_is_better": False}
        rule("recover", {"epoch": 1, "val_metric": error, **named})

    reach("a", 120.0)
    reach("b", 0.5)
    with pytest.raises(Stopped, match=r"0\.75 cm after epoch 1 of recover; going on takes 0\.5 cm"):
        reach("c", 0.75)
