from __future__ import annotations

import copy
import dataclasses
import random
import threading

import numpy as np
import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import InputError, InputTypeError, OperationError, TrainingDiverged
from pintsize.training import Callback, History, evaluate, train


@pytest.fixture(scope="module")
def digits():
    return ps.data.load("digits")


@pytest.fixture(scope="module")
def few(digits):
    return dataclasses.replace(digits, train=digits.train.subset(130))  # 4 batches of 32 and one of 2


def net(seed=0, channels=1, classes=10):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1),
        nn.MaxPool2d(2), nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, classes),
    )  # fmt: skip


def quick(model, data, **options):
    return train(model, data, **{"epochs": 2, "lr": 0.05, "batch_size": 32, "progress": False, **options})


def same(one, other):
    return all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("options", [
    {"lr": 0.05, "nesterov": True},
    {"optimizer": "adam", "lr": 0.01, "schedule": "one-cycle", "label_smoothing": 0.1},
    {"optimizer": "adamw", "lr": 0.01, "schedule": "constant", "warmup_epochs": 0.5, "ema": 0.9},
])  # fmt: skip
def test_digits_are_learned(digits, precision, options):
    model = net()
    history = quick(model, digits, epochs=4, precision=precision, **options)
    assert evaluate(model, digits.test) > 90
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4]
    assert history[-1]["val_accuracy"] == pytest.approx(evaluate(model, digits.val))


def test_test_is_never_read(few):
    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError(f"test.{name} was read")

        def __len__(self):
            raise AssertionError("test was measured")

    quick(net(), dataclasses.replace(few, test=Untouchable()), keep="best")


def test_a_seed_determines_the_weights_and_another_one_others(few):
    nets = [net(), net(), net()]
    for model, seed in zip(nets, (5, 5, 6), strict=True):
        torch.rand(random.randrange(5))  # what the caller drew before does not matter
        quick(model, few, seed=seed)
    assert same(nets[0], nets[1])
    assert not same(nets[0], nets[2])


def test_the_callers_random_numbers_are_left_alone(few):
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = torch.rand(2), np.random.rand(2), random.random()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    quick(net(), few)
    torch.manual_seed(3)
    quick(copy.deepcopy(net(3)), few)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(2), expected[0])
    assert np.array_equal(np.random.rand(2), expected[1])
    assert random.random() == expected[2]


def test_the_model_is_left_ready_to_use(few):
    model = net()
    strides = {name: tensor.stride() for name, tensor in model.state_dict().items()}
    parameters = [id(parameter) for parameter in model.parameters()]
    quick(model, few)
    assert not any(module.training for module in model.modules())
    assert {name: tensor.stride() for name, tensor in model.state_dict().items()} == strides
    assert [id(parameter) for parameter in model.parameters()] == parameters
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_epochs_change_nothing(few):
    model, before = net().requires_grad_(False), net()
    assert quick(model, few, epochs=0) == History()
    assert same(model, before)


def test_a_last_batch_of_one_image_is_left_out(few):
    """Batch norm over a single value per channel has no variance."""
    one_too_many = dataclasses.replace(few, train=few.train.subset(33))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    quick(model, one_too_many, epochs=1)
    assert int(model[2].num_batches_tracked) == 1


def test_keep_best_returns_the_best_epoch(few):
    class Spoil(Callback):
        def on_epoch_start(self, state):
            if state.epoch == 2:
                nn.init.zeros_(state.model[-1].weight)
                nn.init.zeros_(state.model[-1].bias)
                state.optimizer.param_groups[0]["lr"] = 0.0
                state.model.requires_grad_(False)
                state.model[1].weight.requires_grad_(True)

    model = net()
    history = quick(model, few, epochs=3, lr=0.1, keep="best", callbacks=[Spoil()])
    assert history[2]["val_accuracy"] < history.best["val_accuracy"]
    assert evaluate(model, few.val) == pytest.approx(history.best["val_accuracy"])


def test_the_average_is_what_is_returned(few):
    seen = {}

    class Look(Callback):
        def on_epoch_end(self, state):
            seen.update(
                ema=copy.deepcopy(state.ema.state_dict()), own=copy.deepcopy(state.model.state_dict())
            )

    model = net()
    history = quick(model, few, ema=0.99, callbacks=[Look()])
    assert torch.equal(model[0].weight, seen["ema"]["0.weight"])
    assert not torch.equal(model[0].weight, seen["own"]["0.weight"])
    assert history[-1]["val_accuracy"] == pytest.approx(evaluate(model, few.val))


class Masked(nn.Linear):
    """Keeps half its weights at zero, the way masks do."""

    def __init__(self, *size):
        super().__init__(*size)
        self.register_buffer("mask", (torch.arange(size[0]) % 2).float().expand(size[1], -1).clone())
        self.after_optimizer_step()

    def after_optimizer_step(self):
        with torch.no_grad():
            self.weight.mul_(self.mask)


def test_masks_hold_at_every_step_and_in_the_average(few):
    class Watch(Callback):
        steps = 0

        def on_step_end(self, state):
            self.steps += 1
            for model in (state.model, state.ema):
                assert not model[-1].weight[:, ::2].any()
                assert model[-1].weight[:, 1::2].all()

    model = net()
    model[-1] = Masked(256, 10)
    watch = Watch()
    quick(model, few, ema=0.9, callbacks=[watch])
    assert watch.steps == 2 * 5
    assert not model[-1].weight[:, ::2].any()


class Recorder(Callback):
    def __init__(self):
        self.calls = []

    def on_train_start(self, state):
        self.calls.append("start")

    def on_epoch_start(self, state):
        self.calls.append(f"epoch {state.epoch}")
        assert state.model.training

    def penalty(self, state):
        self.calls.append("penalty")

    def on_backward(self, state):
        assert all(p.grad is not None for p in state.model.parameters())
        self.calls.append("backward")

    def on_step_end(self, state):
        self.calls.append(f"step {state.step} lr {state.lr}")

    def on_epoch_end(self, state):
        assert state.history[-1]["epoch"] == state.epoch + 1
        state.history[-1]["extra"] = 7.0
        self.calls.append("end")


def test_callbacks_are_called_in_order_and_may_add_to_the_history(few):
    recorder = Recorder()
    history = quick(net(), few, epochs=2, batch_size=100, schedule="constant", lr=0.5, callbacks=[recorder])
    step = ["penalty", "backward"]
    assert recorder.calls == [
        "start",
        "epoch 0", *step, "step 1 lr 0.5", *step, "step 2 lr 0.5", "end",
        "epoch 1", *step, "step 3 lr 0.5", *step, "step 4 lr 0.5", "end",
    ]  # fmt: skip
    assert [entry["extra"] for entry in history] == [7.0, 7.0]


def test_a_penalty_is_minimised_and_own_parameters_are_stepped_by_their_owner(few):
    class Attention(Callback):
        def __init__(self, parameter):
            self.optimizer = torch.optim.SGD([parameter], 0.5)
            self.parameter = parameter

        def own_parameters(self, model):
            return [self.parameter]

        def penalty(self, state):
            return self.parameter.square().sum()

        def on_step_end(self, state):
            self.optimizer.step()  # p ← p - 0.5 · 2p

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.scale = net(), nn.Parameter(torch.full((3,), 2.0))

        def forward(self, images):
            return self.net(images)

    model = Scaled()
    history = quick(model, few, epochs=1, callbacks=[Attention(model.scale)])
    assert model.scale.tolist() == [0.0, 0.0, 0.0]
    assert history[0]["train_loss"] > 12 * 32 / 130  # the first of the steps paid 3 · 2²


def test_a_callback_can_stop(few):
    class Stop(Callback):
        def on_epoch_end(self, state):
            state.stop = state.epoch == 1

    assert len(quick(net(), few, epochs=5, callbacks=[Stop()])) == 2


def test_a_diverging_training_stops_and_keeps_the_last_good_checkpoint(few, tmp_path):
    class Poison(Callback):
        def on_epoch_start(self, state):
            if state.epoch == 2:
                nn.init.constant_(state.model[-1].bias, float("nan"))

    model, path = net(), tmp_path / "a.ckpt"
    with pytest.raises(TrainingDiverged, match=r"epoch 3, step 11: .*NaN.*after epoch 2, is in .*a\.ckpt"):
        quick(model, few, epochs=4, checkpoint=path, callbacks=[Poison()])
    from pintsize.training import checkpoint

    saved = checkpoint.read(path)
    assert saved["epoch"] == 2
    assert all(tensor.isfinite().all() for tensor in saved["model"].values())


def test_a_learning_rate_that_explodes(few):
    with pytest.raises(TrainingDiverged, match="lower lr"):
        quick(net(), few, epochs=8, lr=1e20, schedule="constant", precision="fp32")


def test_weights_spoilt_by_the_last_step_are_not_saved(few, tmp_path):
    class Poison(Callback):
        def on_step_end(self, state):
            if state.step == 5:
                nn.init.constant_(state.model[-1].bias, float("inf"))

    with pytest.raises(TrainingDiverged, match="validation loss"):
        quick(net(), few, checkpoint=tmp_path / "a.ckpt", callbacks=[Poison()])
    assert not (tmp_path / "a.ckpt").exists()


def test_bad_models_and_data(few, tmp_path):
    with pytest.raises(OperationError, match=r"\[2, 1, 8, 8\].*1 channels of 8×8") as caught:
        quick(net(channels=3), few)
    assert "expected input" in str(caught.value)
    with pytest.raises(InputError, match="5 outputs.*10 classes.*num_classes=10"):
        quick(net(classes=5), few)
    with pytest.raises(InputError, match="no trainable parameters"):
        quick(net().requires_grad_(False), few)
    with pytest.raises(InputTypeError, match="not a network"):
        quick("resnet18", few)
    with pytest.raises(InputTypeError, match="no 'train'"):
        quick(net(), few.train)
    with pytest.raises(InputTypeError, match="no Callback"):
        quick(net(), few, callbacks=[print])
    with pytest.raises(InputTypeError, match="not logits"):
        quick(net()[:3], few)
    (tmp_path / "file").write_text("")
    for place in ({"checkpoint": tmp_path / "file" / "a.ckpt"}, {"log_dir": tmp_path / "file" / "logs"}):
        with pytest.raises(OperationError, match="cannot be written"):
            quick(net(), few, **place)


def test_after_a_failure_the_model_is_where_it_was(few):
    model = net(channels=3)
    with pytest.raises(OperationError):
        quick(model, few)
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_without_validation_images(few):
    nothing = few.val.take(torch.arange(0))
    data = dataclasses.replace(few, val=nothing)
    history = quick(net(), data, epochs=1)
    assert history[0]["val_accuracy"] is None
    assert history.best is history[0]
    with pytest.raises(InputError, match="keep='best'"):
        quick(net(), data, keep="best")


def test_one_plain_line_per_epoch_where_there_is_no_terminal(few, capsys):
    quick(net(), few, progress=None)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1/2  lr ")
    assert "ETA" in lines[0]
    assert lines[1].endswith("ETA 0 s")
    quick(net(), few, progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(few, monkeypatch, capsys):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    quick(net(), few, progress=None)
    shown = capsys.readouterr().err
    assert "epoch 2/2" in shown
    assert "100%" in shown
    assert "ETA" in shown
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("rich"):
            thread.join(timeout=30)  # it is told to stop, and ends a moment later
            assert not thread.is_alive()


def test_tensorboard_has_every_number(few, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = quick(net(), few, log_dir=tmp_path, callbacks=[Recorder()])
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = {"lr", "loss/train", "loss/val", "accuracy/train", "accuracy/val", "seconds", "extra"}
    assert set(events.Tags()["scalars"]) == tags
    points = events.Scalars("accuracy/val")
    assert [point.step for point in points] == [1, 2]
    assert points[1].value == pytest.approx(history[1]["val_accuracy"], rel=1e-5)
