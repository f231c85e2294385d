"""What does not fit is told before a training, by name; what is defined later on is no reason to refuse."""

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import InputError, InputTypeError, OperationError

IMAGES = torch.rand(16, 1, 6, 6)
QUIET = {"epochs": 1, "batch_size": 8, "progress": False}


def linear(outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(36, outputs))


def loader(targets, images=IMAGES, size=4):
    pairs = [(image, target) for image, target in zip(images, targets, strict=True)]
    return torch.utils.data.DataLoader(pairs, batch_size=size)


def split(targets, task=None):
    return ps.data.from_loaders(loader(targets), loader(targets), task=task)


@pytest.mark.parametrize(
    ("targets", "error", "words"),
    [
        (torch.arange(16) % 8, InputError, "targets with class 7.*5 outputs"),
        (torch.arange(16) % 4 - 1, InputError, "targets with class -1"),
        (torch.rand(16), InputTypeError, "needs one class for each"),
        (torch.arange(16)[:, None] % 4, InputTypeError, "one class for each"),
        (torch.eye(5)[torch.arange(16) % 5], InputTypeError, "one class for each"),
    ],
)
@pytest.mark.parametrize("call", [ps.train, ps.evaluate])
def test_labels_that_are_no_classes_of_the_network(targets, error, words, call):
    data = split(targets.flip(0), "classification")
    model = linear(5)
    before = model[1].weight.clone()
    with pytest.raises(error, match=words):
        ps.train(model, data, **QUIET) if call is ps.train else ps.evaluate(model, data.val)
    assert torch.equal(model[1].weight, before)


def test_all_labels_in_memory_are_looked_at():
    data = ps.data.load("digits", limit=60)
    data.train.labels[-1] = 11
    with pytest.raises(InputError, match="targets with class 11.*10 outputs"):
        ps.train(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), data, **QUIET)


def test_a_metric_that_is_not_defined_for_the_first_images_is_no_reason_to_refuse():
    targets = torch.zeros(16, 3)
    targets[12:] = 1
    data = split(targets, "multilabel")
    assert ps.train(linear(3), data, **QUIET)[0]["val_metric"] > 0
    with pytest.raises(OperationError, match="mAP.*nan over 16 images"):
        ps.train(linear(3), split(torch.zeros(16, 3), "multilabel"), **QUIET)


def test_a_loss_of_the_networks_own_is_tried_and_leaves_no_trace():
    class Own(nn.Module):
        def __init__(self, broken):
            super().__init__()
            self.norm, self.head, self.broken = nn.BatchNorm2d(1), linear(3), broken

        def forward(self, x, targets=None):
            out = self.head(self.norm(x))
            return out if targets is None else self.loss(out, targets)

        def loss(self, out, targets):
            if self.broken == "raises":
                raise AttributeError("no such head")
            return (out - targets).square().mean() / (0 if self.broken else 1)

    task = ps.Task(step=lambda model, inputs, targets: model(inputs, targets), metric=lambda out, _: 1.0)
    data = split(torch.rand(16, 3), task)
    for broken, words in (("raises", "step of task.*AttributeError: no such head"), ("inf", "loss is inf")):
        model = Own(broken)
        with pytest.raises(OperationError, match=words):
            ps.train(model, data, **QUIET)
        assert not model.norm.num_batches_tracked
        assert model.norm.running_mean == 0
    ps.train(Own(None), data, **QUIET)


def test_a_loss_without_a_gradient_is_named_as_such():
    task = ps.Task(loss=lambda out, targets: (out.detach() - targets).abs().mean(), metric=lambda out, _: 1.0)
    with pytest.raises(OperationError, match=r"does not require grad.*no \.item\(\), \.detach\(\)"):
        ps.train(linear(3), split(torch.rand(16, 3), task), **QUIET)


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (torch.full((16, 6, 6), 2), "masks with class 2.*2 classes"),
        (torch.full((16, 6, 6), -1), "masks with class -1"),
        (torch.zeros(16, 5, 6, dtype=torch.int64), r"masks \[4, 5, 6\]"),
    ],
)
def test_masks_are_looked_at_wherever_they_are_used(masks, words):
    data = split(masks, "segmentation")
    for use in (
        lambda: ps.train(nn.Conv2d(1, 2, 1), data, **QUIET),
        lambda: ps.evaluate(nn.Conv2d(1, 2, 1), data.val),
    ):
        with pytest.raises((InputError, InputTypeError), match=words):
            use()
