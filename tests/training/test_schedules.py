"""Learning rates against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import inspect
import math

import pytest

from pintsize.errors import InputError, InputTypeError
from pintsize.training import Options, train
from pintsize.training.options import SCHEDULES
from pintsize.training.schedules import lr_at

_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(train).parameters.items()
    if name in {field.name for field in dataclasses.fields(Options)}
}


def options(**changes):
    return Options(**{**_DEFAULTS, **changes})


def rates(n, **changes):
    chosen = options(**changes)
    return [lr_at(step, n, chosen) for step in range(n * chosen.epochs)]


def test_constant():
    assert rates(2, epochs=2, lr=0.3, schedule="constant") == [0.3] * 4


def test_step_multiplies_every_step_size_epochs():
    found = rates(2, epochs=5, lr=1.0, schedule="step", step_size=2, gamma=0.1)
    assert found == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_cosine():
    found = rates(4, epochs=1, lr=2.0, schedule="cosine")
    assert found == pytest.approx([2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5)])


def test_warmup_rises_linearly_and_the_cosine_starts_after_it():
    found = rates(4, epochs=2, lr=1.0, schedule="cosine", warmup_epochs=1)
    half = math.sqrt(0.5) / 2
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.5 + half, 0.5, 0.5 - half])


def test_warmup_of_half_an_epoch():
    assert rates(4, epochs=1, lr=1.0, schedule="constant", warmup_epochs=0.5) == [0.5, 1.0, 1.0, 1.0]


def test_one_cycle_rises_for_30_percent_and_ends_near_zero():
    found = rates(10, epochs=1, lr=1.0, schedule="one-cycle")
    assert found[0] == pytest.approx(1 / 25)
    assert max(found) == found[3] == 1.0
    assert found[1:4] == sorted(found[1:4])
    assert found[3:] == sorted(found[3:], reverse=True)
    assert found[-1] == pytest.approx(1e-4 / 25)


def test_one_cycle_takes_its_rise_from_warmup():
    found = rates(10, epochs=1, lr=1.0, schedule="one-cycle", warmup_epochs=0.5)
    assert found.index(max(found)) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": -1}, "epochs=-1"),
        ({"lr": 0}, "lr=0"),
        ({"lr": -0.1}, "above 0"),
        ({"lr": math.nan}, "lr=nan"),
        ({"momentum": 1.0}, "below 1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"warmup_epochs": 11}, "at most 10"),
        ({"ema": 1.0}, "ema=1.0"),
        ({"temperature": 0}, "temperature=0"),
        ({"distill_weight": 1.5}, "distill_weight=1.5"),
        ({"seed": -1}, "seed=-1"),
        ({"nesterov": True, "momentum": 0.0}, "Nesterov"),
        ({"nesterov": True, "optimizer": "adam"}, "Nesterov"),
        ({"optimizer": "adm"}, "did you mean 'adam'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"precision": "fp16"}, "precision 'fp16'"),
        ({"keep": "worst"}, "keep 'worst'"),
    ],
)
def test_impossible_options_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        options(**changes)


@pytest.mark.parametrize("changes", [{"epochs": 1.5}, {"lr": "0.1"}, {"batch_size": True}, {"seed": None}])
def test_wrong_types_are_refused(changes):
    with pytest.raises(InputTypeError, match=next(iter(changes))):
        options(**changes)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_that_may_be_named_stays_within_the_learning_rate(schedule):
    found = rates(5, epochs=2, lr=0.2, schedule=schedule)
    assert max(found) == pytest.approx(0.2)
    assert min(found) >= 0
