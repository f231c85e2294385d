"""A training that was killed ends as one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import CorruptFile, InputError
from pintsize.training import Callback, History, checkpoint, train

SCRIPT = '''
import json, random, sys
import torch
from torch import nn
import pintsize as ps
from pintsize.training import Callback, train

class Noise(Callback):
    """Has a state of its own, draws from every generator, and moves the weights by it."""
    level = 0.0
    def on_step_end(self, state):
        self.level = 0.9 * self.level + 1e-4 * random.random()
        with torch.no_grad():
            state.model.fc.bias.add_(self.level * torch.randn(10))
    def state_dict(self):
        return {"level": self.level}
    def load_state_dict(self, state):
        self.level = state["level"]

out, weights = sys.argv[1:]
torch.manual_seed(11)
model = ps.models.create("resnet-demo", in_channels=1)
model.fc = nn.Sequential(nn.Dropout(0.2), model.fc)
model.fc.bias = model.fc[1].bias
history = train(model, ps.data.load("digits", limit=400), epochs=10, lr=0.05, batch_size=32, ema=0.9, keep="best",
                schedule="one-cycle", nesterov=True, checkpoint=out + "/a.ckpt", log_dir=out + "/tb", callbacks=[Noise()])
torch.save(model.state_dict(), weights)
history.save(weights + ".json")
'''  # fmt: skip


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    (folder / name).mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(script), str(folder / name), str(folder / f"{name}.pt")],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def epochs_until(process: subprocess.Popen[str], last: int) -> list[int]:
    """The epochs that the process reports, up to `last` or its end."""
    seen = []
    assert process.stderr is not None
    for line in process.stderr:
        assert line.startswith("epoch "), line
        seen.append(int(line.split()[1].split("/")[0]))
        if seen[-1] == last:
            break
    return seen


def finish(process: subprocess.Popen[str]) -> None:
    _, rest = process.communicate()
    assert process.returncode == 0, rest


def test_killed_twice_and_started_again_it_ends_with_the_same_weights_bit_for_bit(tmp_path):
    whole = start(tmp_path, "whole")
    assert epochs_until(whole, 10) == list(range(1, 11))
    finish(whole)
    begun = 1
    for last in (3, 7):  # the line comes just before the checkpoint of its epoch is written
        killed = start(tmp_path, "killed")
        seen = epochs_until(killed, last)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()  # also closes the pipe
        assert killed.returncode == -signal.SIGKILL
        assert seen == list(range(seen[0], last + 1))
        assert begun <= seen[0]
        begun = 2
    ended = start(tmp_path, "killed")
    seen = epochs_until(ended, 10)
    assert seen[-1] == 10
    assert seen[0] > 3
    finish(ended)
    expected, found = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "killed"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    histories = [History.load(tmp_path / f"{name}.pt.json") for name in ("whole", "killed")]
    for entries in histories:
        for entry in entries:
            del entry["seconds"]
    assert histories[0] == histories[1]
    assert [file.name for file in (tmp_path / "killed").glob("*ckpt*")] == ["a.ckpt"]


class Interrupt(Callback):
    """Stands for a kill in the middle of an epoch."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_step_end(self, state):
        if state.step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def few():
    return ps.data.load("digits", limit=100)


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(144, 10)
    )


def quick(model, data, path, *, step=None, **options):
    return train(model, data, **{"epochs": 4, "lr": 0.05, "batch_size": 32, **options}, checkpoint=path,
                 callbacks=[Interrupt(step)], progress=False)  # fmt: skip


@pytest.mark.parametrize("options", [
    {}, {"optimizer": "adamw", "lr": 0.01}, {"keep": "best", "ema": 0.8}, {"schedule": "step", "step_size": 1},
    {"precision": "bf16", "warmup_epochs": 2},
])  # fmt: skip
@pytest.mark.parametrize("step", [1, 6, 8, 15])
def test_interrupted_anywhere(few, tmp_path, options, step):
    whole, broken = net(), net()
    expected = quick(whole, few, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        quick(broken, few, tmp_path / "broken", step=step, **options)
    again = net()
    found = quick(again, few, tmp_path / "broken", **options)
    for one, other in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert [entry["train_loss"] for entry in found] == [entry["train_loss"] for entry in expected]


def test_a_finished_training_is_read_back_without_a_step(few, tmp_path):
    model, again = net(), net()
    history = quick(model, few, tmp_path / "a", ema=0.9)
    assert quick(again, few, tmp_path / "a", ema=0.9, step=1) == history
    assert torch.equal(model[0].weight, again[0].weight)


def test_a_stopped_training_stays_stopped(few, tmp_path):
    class Stop(Interrupt):
        def on_epoch_end(self, state):
            state.stop = True

    history = train(net(), few, epochs=3, checkpoint=tmp_path / "a", callbacks=[Stop(None)], progress=False)
    assert (
        train(net(), few, epochs=3, checkpoint=tmp_path / "a", callbacks=[Stop(1)], progress=False) == history
    )
    assert len(history) == 1


def test_the_checkpoint_of_another_training_is_refused(few, tmp_path):
    quick(net(), few, tmp_path / "a", epochs=1)
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(
        InputError, match=r"epochs was 1, is 2; lr was 0\.05, is 0\.1; schedule was 'cosine', is 'step'"
    ):
        quick(net(), few, tmp_path / "a", epochs=2, lr=0.1, schedule="step")
    wider = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(InputError, match="model was 'Sequential of 6 parameters"):
        quick(wider, few, tmp_path / "a", epochs=1)
    with pytest.raises(InputError, match=r"images was '100 \+ 100 of 10 classes', is '50 \+ 50"):
        quick(net(), ps.data.load("digits", limit=50), tmp_path / "a", epochs=1)
    assert (tmp_path / "a").read_bytes() == before


def test_a_damaged_checkpoint_is_named(few, tmp_path):
    quick(net(), few, tmp_path / "a", epochs=1)
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-100])
    with pytest.raises(CorruptFile, match="does not match its checksum"):
        quick(net(), few, tmp_path / "a", epochs=1)


def test_only_tensors_and_plain_types_are_in_it(few, tmp_path):
    quick(net(), few, tmp_path / "a", epochs=1, ema=0.9, keep="best")
    saved = checkpoint.read(tmp_path / "a")  # weights_only=True
    assert set(saved) == {
        "configuration", "epoch", "step", "stop", "model", "optimizer", "ema", "best", "history", "callbacks",
        "generators",
    }  # fmt: skip


def test_what_a_kill_left_of_a_checkpoint_goes_at_the_next_start(few, tmp_path):
    path = tmp_path / "a[1].ckpt"
    left, other = tmp_path / ".a[1].ckpt.x7.partial", tmp_path / ".b.ckpt.x7.partial"
    other.write_bytes(b"another's")
    for _ in range(2):  # whether or not one was ever written whole
        left.write_bytes(b"half")
        quick(net(), few, path)
        assert not left.exists()
        assert other.exists()


def test_the_checkpoint_of_another_option_of_the_task_is_refused(tmp_path):
    images, masks = torch.rand(16, 1, 4, 4), torch.randint(3, (16, 4, 4))
    data = ps.data.from_loaders(torch.utils.data.TensorDataset(images, masks))
    options = {"epochs": 2, "batch_size": 8, "progress": False, "checkpoint": tmp_path / "c"}
    ps.train(nn.Conv2d(1, 3, 1), data, task="segmentation", **options)
    again = ps.train(nn.Conv2d(1, 3, 1), data, task={"name": "segmentation", "ignore_index": 255}, **options)
    assert len(again) == 2
    with pytest.raises(InputError, match="another training: task was .*=255.*, is .*=0"):
        ps.train(nn.Conv2d(1, 3, 1), data, task={"name": "segmentation", "ignore_index": 0}, **options)
