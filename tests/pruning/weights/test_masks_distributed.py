"""Masks hold in every process of a distributed training, and the schedule removes the same weights in each."""

import torch

SCRIPT = """
import os, sys
import torch
from torch import nn
import pintsize as ps
from pintsize.pruning import Staged, Sparsify, masks_of

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
data = ps.data.load("digits", limit=100)
schedule = Sparsify(Staged({0: 0.5, 1: 0.2}), "snip", data=data)
ps.train(model, data, epochs=2, lr=0.05, batch_size=20, ema=0.9, callbacks=[schedule], progress=False)
rank = os.environ.get("RANK", "0")
torch.save({"model": dict(model.state_dict()), "masks": masks_of(model)}, f"{sys.argv[1]}-{rank}")
"""


def test_two_processes_have_the_same_masks_and_zeros(tmp_path, launch):
    launch(SCRIPT, tmp_path / "out", processes=2)
    first, second = (torch.load(tmp_path / f"out-{rank}", weights_only=True) for rank in (0, 1))
    assert sum(int(mask.sum()) for mask in first["masks"].values()) == round(0.2 * (64 * 32 + 32 * 10))
    for name, mask in first["masks"].items():
        assert torch.equal(mask, second["masks"][name])
        assert not first["model"][name][~mask].any()
        assert torch.equal(first["model"][name], second["model"][name])
