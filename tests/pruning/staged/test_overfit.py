"""With regularisation off an image's output depends on that image alone, and training fits every image."""

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import InputError
from pintsize.pruning.staged.overfit import UNREGULARIZED, Unregularized
from pintsize.training import Callback


@pytest.fixture(scope="module")
def digits():
    return ps.data.load("digits", limit=200)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Dropout(0.9), nn.Linear(576, 10)
    )


class Look(Callback):
    """Outputs of one image alone and among others, in the middle of training."""

    def __init__(self, images):
        self.images, self.differences, self.dropped = images, [], []

    def on_step_end(self, state):
        with torch.no_grad():
            alone, among = state.model(self.images[:1]), state.model(self.images)[:1]
        self.differences.append(float((alone - among).abs().max()))
        self.dropped.append(state.model[4].training)


def fit(digits, *callbacks, epochs=3, **options):
    model = network()
    history = ps.train(
        model, digits, epochs=epochs, lr=0.05, batch_size=40, progress=False, precision="fp32",
        callbacks=callbacks, **options,
    )  # fmt: skip
    return model, history


def test_outputs_do_not_depend_on_the_batch(digits):
    images, _ = next(iter(digits.train.batches(16)))
    look = Look(images)
    fit(digits, Unregularized(digits), look, epochs=1)
    assert look.differences
    assert max(look.differences) < 1e-4
    assert not any(look.dropped)
    usual = Look(images)
    fit(digits, usual, epochs=1)
    assert min(usual.differences) > 0.1
    assert all(usual.dropped)


def test_statistics_are_those_of_the_training_images(digits):
    seen = []

    class First(Callback):
        def on_epoch_start(self, state):
            seen.append((state.model[1].running_mean.clone(), state.model[1].momentum))

    model = network()
    with torch.no_grad():
        images = torch.cat([x for x, _ in digits.train.batches(90)])
        expected = model[0](images).mean((0, 2, 3))
    ps.train(
        model, digits, epochs=1, lr=0.01, precision="fp32", progress=False, callbacks=[Unregularized(digits), First()]
    )  # fmt: skip
    mean, momentum = seen[0]
    assert torch.allclose(mean, expected, atol=1e-5)
    assert momentum == 0.1


def test_it_overfits_and_stops_there(digits):
    _, history = fit(digits, Unregularized(digits, until=99.5), epochs=60, **UNREGULARIZED)
    assert history[-1]["train_accuracy"] >= 99.5
    assert len(history) < 60
    _, usual = fit(digits, epochs=len(history), augment=False)
    assert usual[-1]["train_accuracy"] < 99.5


@pytest.mark.parametrize(("options", "match"), [({"until": 101}, "until"), ({"images": 1}, "images")])
def test_bad_options(options, match, digits):
    with pytest.raises(InputError, match=match):
        Unregularized(digits, **options)


class ByName(nn.Module):
    """Takes `x` by its name, and computes its loss where it gets targets, in training it must, as detectors do."""

    def __init__(self, needs_targets=False):
        super().__init__()
        self.norm, self.head, self.needs_targets = nn.BatchNorm2d(1), nn.Linear(16, 1), needs_targets

    def forward(self, x, targets=None):
        assert targets is not None or not (self.training and self.needs_targets)
        found = self.head(self.norm(x).flatten(1))
        return found if targets is None else (found - targets).square().mean()


def numbers(task):
    torch.manual_seed(0)
    images = torch.rand(32, 1, 4, 4)
    batches = [{"x": images[i : i + 16], "target": images[i : i + 16].mean((2, 3))} for i in (0, 16)]
    return ps.data.from_loaders(batches, batches, task=task)


FIT = {"lr": 0.05, "batch_size": 16, "precision": "fp32", "progress": False}


def test_batches_that_are_dicts_and_a_metric_to_be_reached():
    data = numbers({"name": "regression", "unit": "cm"})
    history = ps.train(ByName(), data, epochs=40, callbacks=[Unregularized(data, until=0.1)], **FIT)
    assert len(history) < 40
    assert history[-1]["train_metric"] <= 0.1
    assert all(epoch["train_metric"] > 0.1 for epoch in history[:-1])
    with pytest.raises(InputError, match="MAE to be reached"):
        Unregularized(data, until=float("nan"))


def test_a_network_that_computes_its_loss_gets_its_targets():
    def step(model, inputs, targets):
        return model(*inputs, targets) if isinstance(inputs, tuple) else model(inputs, targets)

    data = numbers(
        ps.Task(step=step, metric=lambda outputs, targets: float((outputs - targets).abs().mean()))
    )
    model = ByName(needs_targets=True)
    ps.train(model, data, epochs=1, callbacks=[Unregularized(data)], **FIT)
    assert float(model.norm.running_mean) == pytest.approx(0.5, abs=0.1)
