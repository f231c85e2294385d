from __future__ import annotations

import pytest
import torch
from torch import nn

from pintsize.training.ema import Ema


def test_the_average_follows_with_a_decay_that_rises():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    ema = Ema(model, 0.25)
    nn.init.constant_(model.weight, 1.0)
    ema.update(model)  # d = 2/11
    assert ema.module.weight.item() == pytest.approx(9 / 11)
    ema.update(model)  # d = 3/12 = 0.25
    assert ema.module.weight.item() == pytest.approx(0.25 * 9 / 11 + 0.75)
    nn.init.constant_(model.weight, 0.0)
    ema.update(model)  # 4/13 > 0.25: the decay asked for
    assert ema.module.weight.item() == pytest.approx(0.25 * (0.25 * 9 / 11 + 0.75))


def test_buffers_are_copied():
    model = nn.BatchNorm2d(2)
    ema = Ema(model, 0.9)
    model.running_mean.fill_(3.0)
    model.num_batches_tracked.fill_(7)
    ema.update(model)
    assert ema.module.running_mean.tolist() == [3.0, 3.0]
    assert int(ema.module.num_batches_tracked) == 7


class Masked(nn.Linear):
    def __init__(self):
        super().__init__(2, 1, bias=False)
        self.register_buffer("mask", torch.ones(1, 2))

    def after_optimizer_step(self):
        with torch.no_grad():
            self.weight.mul_(self.mask)


def test_a_mask_that_grows_holds_in_the_average():
    model = Masked()
    ema = Ema(model, 0.9)
    model.mask[0, 1] = 0
    model.after_optimizer_step()
    ema.update(model)
    assert ema.module.weight[0, 1] == 0
    assert ema.module.weight[0, 0] != 0


def test_state_round_trip():
    model = nn.Linear(2, 2)
    ema, other = Ema(model, 0.9), Ema(model, 0.9)
    nn.init.constant_(model.weight, 1.0)
    ema.update(model)
    other.load_state_dict(ema.state_dict())
    nn.init.constant_(model.weight, 2.0)
    ema.update(model)
    other.update(model)
    assert torch.equal(ema.module.weight, other.module.weight)
    assert not any(p.requires_grad for p in ema.module.parameters())
