"""Timing: order of calls, statistics, state left as found."""

import gc
import time

import numpy as np
import pytest
import torch
from torch import nn

from pintsize.errors import InputError, InputTypeError
from pintsize.measure import latency, side_by_side


def test_turns_are_taken_and_warm_up_is_not_timed():
    calls = []
    result = side_by_side(
        {"a": lambda _: calls.append("a"), "b": lambda _: calls.append("b")},
        np.zeros((4, 3)),
        warmup=2,
        repeats=3,
    )
    assert calls == ["a", "b"] * 5
    assert [len(r.runs) for r in result.values()] == [3, 3]
    assert result["a"].batch == 4


def test_median_and_percentile():
    naps = iter([0, *[0.001] * 9, 0.05])
    found = latency(lambda _: time.sleep(next(naps)), torch.zeros(1), warmup=1, repeats=10)
    assert 1 <= found.median_ms < 10
    assert found.p95_ms > 10  # the one slow call in ten shows in p95, not in the median
    assert found.median_ms == pytest.approx(np.median(found.runs))


class Spy(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout()
        self.dropout.eval()
        self.seen = set()

    def forward(self, x):
        self.seen.add((self.training, torch.is_grad_enabled(), torch.get_num_threads(), gc.isenabled()))
        return self.dropout(x)


def test_module_runs_in_eval_and_everything_is_put_back():
    model, threads = Spy(), torch.get_num_threads()
    latency(model, torch.ones(1, 3), warmup=0, repeats=2, threads=threads + 1)
    assert model.seen == {(False, False, threads + 1, False)}
    assert model.training
    assert not model.dropout.training
    assert torch.get_num_threads() == threads
    assert gc.isenabled()


def test_state_is_put_back_after_a_failure():
    model = nn.Linear(3, 3)
    with pytest.raises(RuntimeError):
        latency(model, torch.ones(1, 4))
    assert model.training
    assert gc.isenabled()


def test_tuple_is_spread():
    assert latency(lambda a, b: a + b, (torch.ones(2), torch.ones(2)), repeats=1).batch == 2


@pytest.mark.parametrize("options", [{"warmup": -1}, {"repeats": 0}, {"threads": 0}])
def test_counts_out_of_range(options):
    with pytest.raises(InputError, match=next(iter(options))):
        latency(abs, torch.ones(1), **options)


def test_nothing_to_time():
    with pytest.raises(InputError):
        side_by_side({}, torch.ones(1))
    with pytest.raises(InputTypeError, match="'x' of type int"):
        side_by_side({"x": 3}, torch.ones(1))
