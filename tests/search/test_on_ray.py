"""Sweeps on Ray: a worker dies, the driver dies, and no trial that is over is repeated. All on the command line."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from pintsize.errors import OperationError
from pintsize.recipe.recipe import Recipe
from pintsize.search.on_ray import _check_room, _note_the_dead
from pintsize.search.sweep import sweep
from pintsize.search.sweep_file import Trial
from pintsize.search.trial import ended, note

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")

SWEEP = """
recipe:
  model: waiting:make
  data: {name: digits, limit: 60}
  train: {epochs: 1, lr: 0.05, batch_size: 32, precision: fp32}
  quantize: null
  export: {threads: 1}
grid:
  seed: [0, 1]
resources: {at_once: 1}
"""
WAITING = """
import os, pathlib, time
from torch import nn

def make():
    '''A worker that tells who it is, then waits to be killed, or for leave to go on.'''
    here = pathlib.Path(__file__).parent
    with (here / "began").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    while not (here / "go-on").exists() and len((here / "began").read_text().split()) < 2:
        time.sleep(0.05)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


def wait_for(happened, process):
    deadline = time.monotonic() + 200
    while not happened():
        assert process.poll() is None, "the sweep ended early"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_worker_dies_then_the_driver(tmp_path):
    (tmp_path / "waiting.py").write_text(WAITING)
    (tmp_path / "s.yaml").write_text(SWEEP)
    out, began = tmp_path / "o", tmp_path / "began"
    command = [sys.executable, "-c", "from pintsize.cli import main; main()", "sweep", "s.yaml", "--out", "o",
               "--engine", "ray", "--json"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        wait_for(began.exists, process)
        records = [out / "trials" / f"seed-{seed}" / "trial.json" for seed in (0, 1)]
        victim = next(path for path in records if path.exists())
        os.kill(
            int(began.read_text().split()[0]), signal.SIGKILL
        )  # Ray begins that trial again, now or later
        wait_for(lambda: any('"done"' in path.read_text() for path in records if path.exists()), process)
        process.kill()
        process.wait()
    done = {path: path.read_text() for path in records if path.exists() and '"done"' in path.read_text()}
    again = subprocess.run(
        command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert {trial["state"] for trial in found["trials"]} == {"done"}
    assert len(found["points"]) == 2
    assert {path: path.read_text() for path in done} == done  # not begun again
    assert json.loads(victim.read_text())["starts"] >= 2
    assert list((out / "ray").iterdir()) == []


SMALL = {"recipe": {"model": "resnet-demo", "data": {"name": "digits", "limit": 60}, "train": {"epochs": 1}}}


def test_more_cores_than_there_are_is_told_at_once(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps({**SMALL, "grid": {"seed": [0]}, "resources": {"cpus": 640}}))
    with pytest.raises(
        OperationError, match=r"a trial needs 640 cores, and no machine has as much .*lower resources\.cpus"
    ):
        sweep(file, out=tmp_path / "o", engine="ray", progress=False)


def test_an_address_at_which_nothing_listens_is_told_at_once(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps({**SMALL, "grid": {"seed": [0]}}))
    began = time.monotonic()
    with pytest.raises(OperationError, match=rf"Ray at {address}: it cannot be reached .*ray start --head"):
        sweep(file, out=tmp_path / "o", engine="ray", address=address, progress=False)
    assert time.monotonic() - began < 60


def test_a_cluster_may_grow_so_a_want_is_a_warning_there():
    nodes = [{"CPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}]
    _check_room({"cpu": 1.0, "gpu": 0.5}, nodes, may_grow=False)
    with pytest.warns(
        UserWarning, match=r"a trial needs 2 cores and 0\.5 GPUs.*2 cores, 1 GPUs.*or add such a machine"
    ):
        _check_room({"cpu": 2.0, "gpu": 0.5}, nodes, may_grow=True)


def test_a_trial_whose_every_worker_died_is_a_failure_with_a_hint(tmp_path):
    trials = [
        Trial(name, {}, Recipe.parse(SMALL["recipe"], source="a test")) for name in ("begun", "waiting")
    ]
    note(replace(ended(trials[0], tmp_path), starts=2), trials[0], tmp_path, state="running")
    _note_the_dead(trials, tmp_path)
    found = [ended(trial, tmp_path) for trial in trials]
    assert [each.state for each in found] == ["failed", "failed"]
    assert [each.reason for each in found] == ["its worker died, 2 times", "no worker could begin it"]
    assert "memory" in found[0].hint
