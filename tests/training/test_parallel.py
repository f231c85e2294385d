"""Several processes compute what one does."""

from __future__ import annotations

import pytest
import torch

from pintsize.data.batches import rows

SCRIPT = '''
import copy, os, sys, warnings
warnings.simplefilter("error")
import torch
from torch import nn
import pintsize as ps
from pintsize.training import Callback, train

class Freeze(Callback):
    """Stops training the first layer: the gradients to exchange become fewer."""
    def __init__(self, broken_at):
        self.broken_at = broken_at
    def on_epoch_start(self, state):
        state.model[0].weight.requires_grad_(state.epoch < 1)
    def penalty(self, state):
        return 1e-3 * state.model[-1].weight.abs().sum()
    def on_step_end(self, state):
        if state.step == self.broken_at:
            raise InterruptedError

def run(model, name, broken_at=None):
    return train(model, data, epochs=4, lr=0.05, batch_size=23, precision="fp32", ema=0.5, label_smoothing=0.1,
                 teacher=teacher, distill_weight=0.3, checkpoint=f"{sys.argv[1]}.{name}", progress=False,
                 callbacks=[Freeze(broken_at)])

rank = int(os.environ.get("RANK", 0))
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh(), nn.Conv2d(8, 8, 1),
                      nn.BatchNorm2d(8, momentum=None), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1), nn.Tanh(),
                      nn.Flatten(), nn.Linear(512, 16), nn.BatchNorm1d(16), nn.Linear(16, 10))
teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
if rank == 1:  # only the first process's weights count
    nn.init.zeros_(model[-1].weight)
data = ps.data.load("digits", limit=110)
broken = copy.deepcopy(model)
again = copy.deepcopy(model)
history = run(model, "whole")
assert "forward" not in model[1].__dict__
try:
    run(broken, "broken", broken_at=12)
except InterruptedError:
    run(again, "broken")
for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
    assert torch.equal(one, other)
if rank == 0:
    torch.save({"model": model.state_dict(), "history": list(history)}, sys.argv[1])
'''  # fmt: skip


RESNET = """
import os, sys
import torch
from torch import nn
import pintsize as ps

class Double(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = ps.models.create("resnet-demo", in_channels=1).double()
    def forward(self, x):
        return self.net(x.double())

model = Double()
history = ps.train(model, ps.data.load("digits", limit=110), epochs=4, lr=0.05, batch_size=23,
                   precision="fp32", progress=False)
if int(os.environ.get("RANK", 0)) == 0:
    torch.save(model.state_dict(), sys.argv[1])
"""


ONE_ALONE = """
import sys
import pintsize as ps
from pintsize.cli import app
from pintsize.errors import OperationError

try:
    ps.compress("resnet-demo", "digits", out=sys.argv[1] + "/run")
except OperationError as error:
    assert "2 processes were launched, and one alone can work in a folder" in str(error), error
else:
    raise SystemExit("both worked in one folder")
options = ["-m", "resnet-demo", "-d", "digits", "--limit", "60", "--epochs", "1", "--precision", "fp32"]
app(["train", *options, "--out", sys.argv[1] + "/net.safetensors"], standalone_mode=False)
"""


def test_a_run_is_for_one_process_and_the_first_alone_saves_a_training(tmp_path, launch, capfd):
    launch(ONE_ALONE, tmp_path, processes=2)
    assert not (tmp_path / "run").exists()
    assert (tmp_path / "net.safetensors").is_file()
    assert capfd.readouterr().out.count("validation images") == 1


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_shares_make_up_the_batch(n):
    images, labels = torch.arange(n * 3.0).view(n, 3), torch.arange(n)
    cuts = [(index * n // 3, (index + 1) * n // 3) for index in range(3)]
    parts = [(rows(images, *cut, of=n), rows(labels, *cut, of=n)) for cut in cuts]
    assert torch.equal(torch.cat([part[0] for part in parts]), images)
    assert torch.equal(torch.cat([part[1] for part in parts]), labels)
    assert max(len(part[0]) for part in parts) - min(len(part[0]) for part in parts) <= 1


def test_two_processes_train_as_one(tmp_path, launch):
    """20 steps, batch norm over the whole batch, unequal shares (23 = 11 + 12); and taken up after a stop."""
    for name, processes in (("one", 1), ("two", 2)):
        launch(SCRIPT, tmp_path / name, processes=processes)
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two"))
    for name, tensor in one["model"].items():
        assert torch.allclose(two["model"][name].double(), tensor.double(), rtol=0, atol=1e-5), name
    for ours, theirs in zip(one["history"], two["history"], strict=True):
        assert theirs["train_accuracy"] == pytest.approx(ours["train_accuracy"])
        assert theirs["val_accuracy"] == pytest.approx(ours["val_accuracy"])
        assert theirs["train_loss"] == pytest.approx(ours["train_loss"], rel=1e-5)
        assert theirs["val_loss"] == pytest.approx(ours["val_loss"], rel=1e-5)


def test_two_processes_train_a_resnet_as_one(tmp_path, launch):
    """20 steps in double precision: in fp32 a ReLU at its edge turns rounding into another path of training."""
    for name, processes in (("one", 1), ("two", 2)):
        launch(RESNET, tmp_path / name, processes=processes)
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two"))
    for name, tensor in one.items():
        assert torch.allclose(two[name], tensor, rtol=0, atol=1e-5), name
