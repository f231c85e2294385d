"""Schedules remove weights when they say, and masks hold through the rest of the training."""

import copy

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import InputError
from pintsize.pruning import masks_of
from pintsize.pruning.weights.schedules import Polynomial, Rewind, Sparsify, Staged, one_shot
from pintsize.storage.record import record
from pintsize.training import Callback


@pytest.fixture(scope="module")
def digits():
    return ps.data.load("digits", limit=160)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def fit(model, images, schedule, *others, epochs=3, **options):
    more = {k: options.pop(k) for k in ("ema", "checkpoint") if k in options}
    return ps.train(
        model, images, epochs=epochs, lr=0.05, batch_size=40, augment=False, progress=False,
        callbacks=[Sparsify(schedule, **options), *others], **more,
    )  # fmt: skip


def test_one_shot_after_an_epoch(digits):
    history = fit(network(), digits, one_shot(0.2, epoch=1), importance="ecs", data=digits)
    assert [entry["density"] for entry in history] == [1.0, 474 / 2368, 474 / 2368]


def test_stages_fall_and_never_revive(digits):
    seen = []

    class Watch(Callback):
        def on_epoch_end(self, state):
            seen.append(masks_of(state.model))

    model = network()
    history = fit(model, digits, Staged({0: 0.5, 2: 0.1}), Watch(), ema=0.9)
    assert [round(entry["density"], 2) for entry in history] == [0.5, 0.5, 0.1]
    for name in seen[0]:
        assert not (seen[2][name] & ~seen[0][name]).any()
        assert torch.equal(masks_of(model)[name], seen[2][name])
        assert not model.state_dict()[name][~seen[2][name]].any()
    assert [step.kind for step in record(model)] == ["mask"]


def test_polynomial_values_by_hand():
    schedule = Polynomial(0.1, begin=1, end=3, every=2)
    assert schedule.value(0) == schedule.value(1) == 1.0
    assert schedule.value(2) == pytest.approx(0.1 + 0.9 * 0.125)
    assert schedule.value(3) == schedule.value(9) == pytest.approx(0.1)
    assert [step for step in range(40) if schedule.at_step(step, 5)[0]] == [7, 9, 11, 13, 15]
    assert schedule.at_step(15, 5)[1] == 0.1


def test_polynomial_reaches_its_end_exactly(digits):
    model = network()
    history = fit(model, digits, Polynomial(0.1, end=2.5, every=3), ema=0.9)
    densities = [entry["density"] for entry in history]
    assert densities[0] > densities[1] > densities[2]
    assert sum(int(m.sum()) for m in masks_of(model).values()) == round(0.1 * (64 * 32 + 320))


def test_rewind_puts_the_early_weights_back(digits):
    early = {}

    class Watch(Callback):
        def on_epoch_start(self, state):
            if state.epoch == 1:
                early.update(copy.deepcopy(dict(state.model.named_parameters())))
            if state.epoch == 2:
                for name, tensor in state.model.named_parameters():
                    mask = masks_of(state.model).get(name, torch.ones_like(tensor).bool())
                    assert torch.equal(tensor[mask], early[name][mask])
                    assert not tensor[~mask].any()
                assert not state.optimizer.state

    fit(network(), digits, Rewind({2: 0.3}, to=1), Watch())
    assert early


def test_movement_sums_over_training_and_survives_a_resume(digits, tmp_path):
    class Killed(Callback):
        armed = True

        def on_epoch_start(self, state):
            if self.armed and state.epoch == 1:
                raise KeyboardInterrupt

    killed = Killed()
    straight, resumed = network(), network()
    options = {"importance": "movement"}
    with pytest.raises(KeyboardInterrupt):
        fit(network(), digits, one_shot(0.3, epoch=2), killed, checkpoint=tmp_path / "c", **options)
    killed.armed = False
    fit(resumed, digits, one_shot(0.3, epoch=2), killed, checkpoint=tmp_path / "c", **options)
    fit(straight, digits, one_shot(0.3, epoch=2), killed, **options)
    for name, mask in masks_of(straight).items():
        assert torch.equal(mask, masks_of(resumed)[name])
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_n_of_m_in_training(digits):
    model = network()
    fit(model, digits, one_shot(None, epoch=1), pattern="2:4", epochs=2)
    assert int(masks_of(model)["1.weight"].reshape(-1, 4).sum(1).max()) == 2


@pytest.mark.parametrize(
    ("schedule", "options", "match"),
    [
        (one_shot(0.2, epoch=3), {}, "epoch 3"),
        (Staged({}), {}, "no stage"),
        (Staged({0: 0.2, 1: 0.3}), {}, "do not fall"),
        (Polynomial(0.1, end=9), {}, "3 epochs"),
        (Polynomial(0.1, every=0), {}, "does not fall"),
        (Rewind({1: 0.2}, to=1), {}, "rewind to epoch 1"),
        (one_shot(1.0), {}, "nothing would be removed"),
        (one_shot(0.2), {"importance": "sniip"}, "snip"),
        (one_shot(0.2), {"importance": "snip"}, "needs data"),
    ],
)
def test_schedules_that_make_no_sense(digits, schedule, options, match):
    with pytest.raises(InputError, match=match):
        fit(network(), digits, schedule, **options)
