"""Functions that users write for a task: what they may raise, and what tells one task from another."""

import functools
import sys

import pytest
import torch
from torch import nn
from torchmetrics import MeanAbsoluteError

import pintsize as ps
from pintsize.errors import InputError, InputTypeError, OperationError

IMAGES, NUMBERS = torch.rand(20, 1, 6, 6), torch.rand(20, 1)
QUIET = {"epochs": 1, "batch_size": 4, "lr": 0.01, "progress": False}


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 1))


def numbers():
    return ps.data.from_loaders(torch.utils.data.TensorDataset(IMAGES, NUMBERS), task="regression")


def squares(outputs, targets):
    return (outputs - targets).square().mean()


def after(calls, function):
    """`function`, which raises from then on."""
    left = [calls]

    def counted(*given):
        left[0] -= 1
        if left[0] < 0:
            raise ValueError("no such point")
        return function(*given)

    return counted


@pytest.mark.parametrize(
    ("task", "what"),
    [
        (lambda: ps.Task(loss=after(3, squares), metric=squares), "loss of task"),
        (lambda: ps.Task(loss=squares, metric=after(2, squares)), "metric 'counted'"),
        (lambda: ps.Task(step=after(2, lambda model, x, y: squares(model(x), y))), "step of task"),
    ],
)
def test_what_a_function_raises_late_is_told_with_what_it_was_given(task, what):
    with pytest.raises(
        OperationError, match=rf"{what}.*ValueError: no such point\) on .*float32 \[\d, 1"
    ) as caught:
        ps.train(net(), numbers(), task=task(), **QUIET)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (
            {"loss": lambda outputs, targets: torch.tensor(outputs.numpy().mean())},
            "first batch.*RuntimeError",
        ),
        (
            {"loss": lambda outputs, targets: squares(outputs.detach(), targets)},
            "does not require grad",
        ),
        ({"loss": squares, "distill": lambda outputs, taught: 0}, "distill of task.*first batch.*TypeError"),
        ({"loss": squares, "distill": lambda *given: given[0]}, "not a scalar"),
        ({"loss": squares, "agreement": lambda ours: 0}, "agreement of task.*first batch.*TypeError"),
        ({"loss": squares, "agreement": lambda *given: 3}, "it is int, not true or false"),
        (
            {"loss": squares, "agreement": lambda *given: torch.full((2,), 3.0)},
            r"float32 \[2\], not true or false",
        ),
    ],
)
def test_what_a_run_would_stumble_on_after_its_training_is_tried_before(task, words):
    model = net()
    before = model[1].weight.clone()
    with pytest.raises((OperationError, InputTypeError), match=words):
        ps.train(model, numbers(), task=ps.Task(metric=squares, **task), **QUIET)
    assert torch.equal(model[1].weight, before)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        (
            "own_tasks:broken",
            InputError,
            r"cannot be made \(RuntimeError: out of paint\); mend own_tasks:broken",
        ),
        ("own_tasks:number", InputTypeError, "it is int; name a ps.Task"),
        ("own_tasks:needs", InputError, "missing 1 required positional"),
        ("own_tasks:nothing", InputError, "has no attribute 'nothing'"),
        ("{name: segmentation, ignore_index: 0}", InputError, "its options are for a recipe"),
        (":", InputError, "name it: segmentation"),
    ],
)
def test_tasks_of_a_module_with_errors(name, error, words, tmp_path, monkeypatch):
    (tmp_path / "own_tasks.py").write_text(
        "number = 3\ndef broken():\n    raise RuntimeError('out of paint')\ndef needs(what):\n    return what\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_tasks", raising=False)
    with pytest.raises(error, match=words):
        ps.tasks.task_of(name)


def weighted(weight):
    return lambda outputs, targets: weight * squares(outputs, targets)


def test_tasks_that_train_or_judge_otherwise_are_told_apart():
    of = ps.tasks.task_of
    alike = [
        (lambda: of("segmentation"), lambda: of({"name": "segmentation", "ignore_index": 255})),
        (
            lambda: ps.Task(loss=weighted(2), metric=squares),
            lambda: ps.Task(loss=weighted(2), metric=squares),
        ),
        (lambda: ps.Task(metric=MeanAbsoluteError()), lambda: ps.Task(metric=MeanAbsoluteError())),
    ]
    for one, same in alike:
        assert one().identity == same().identity
    others = [
        of("segmentation"), of({"name": "segmentation", "ignore_index": 0}), of("classification"),
        of({"name": "classification", "top": 5}), of("restoration"), of({"name": "restoration", "metric": "ssim"}),
        of("keypoints"), of({"name": "keypoints", "loss": "mse"}), of("detection"),
        of({"name": "detection", "metric": "mAP@.5"}),
        ps.Task(loss=squares), ps.Task(loss=weighted(2)), ps.Task(loss=weighted(3)),
        ps.Task(loss=functools.partial(squares, targets=0)), ps.Task(loss=nn.MSELoss()), ps.Task(loss=nn.L1Loss()),
        ps.Task(loss=lambda o, t: o.sum()), ps.Task(loss=lambda o, t: o.mean()),
        ps.Task(loss=squares, metric=MeanAbsoluteError()), ps.Task(loss=squares, metric=squares),
        ps.Task(loss=squares, metric=squares, higher_is_better=False),
    ]  # fmt: skip
    assert len({one.identity for one in others}) == len(others)


def test_a_metric_that_has_counted_is_the_same():
    metric = MeanAbsoluteError()
    task = ps.Task(metric=metric)
    before = task.identity
    ps.evaluate(net(), numbers().val, task=task)
    assert task.identity == before
