from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import InputError, InputTypeError, OperationError
from pintsize.training import evaluate


class Brightest(nn.Module):
    """The class is the index of the first image value that is largest."""

    def forward(self, images):
        return images.flatten(1)[:, :4]


def batches():
    images = torch.zeros(5, 1, 2, 2)
    images.view(5, 4)[range(5), [0, 1, 2, 3, 0]] = 1.0
    labels = torch.tensor([0, 1, 2, 0, 1])
    return [(images[:3], labels[:3]), (images[3:], labels[3:])]


def test_percent_over_unequal_batches():
    assert evaluate(Brightest(), batches()) == 60.0


def test_a_runtime_is_called_on_arrays():
    def runtime(array):
        assert isinstance(array, np.ndarray)
        assert array.dtype == np.float32
        return array.reshape(len(array), -1)[:, :4]

    assert evaluate(runtime, batches()) == 60.0


def test_a_split_and_a_module_agree_with_counting():
    digits = ps.data.load("digits", limit=100)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    images, labels = next(digits.val.batches(1000))
    expected = 100 * (model(images).argmax(1) == labels).float().mean().item()
    assert evaluate(model, digits.val, batch_size=7) == pytest.approx(expected)
    assert evaluate(lambda x: model(torch.from_numpy(x)).detach().numpy(), digits.val) == pytest.approx(
        expected
    )


def test_modes_and_statistics_are_as_before():
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), Brightest())
    model.train()
    model[1].eval()
    before = [module.training for module in model.modules()]
    assert evaluate(model, batches()) == 60.0
    assert [module.training for module in model.modules()] == before
    assert int(model[0].num_batches_tracked) == 0


def test_modes_come_back_after_a_failure():
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    with pytest.raises(OperationError, match=r"\[3, 1, 2, 2\].*3 channels"):
        evaluate(model, batches())
    assert model.training


def test_autocast_around_it_changes_nothing():
    seen = []

    class Probe(Brightest):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=False)

        def forward(self, images):
            seen.append(self.layer(images.flatten(1)).dtype)
            return super().forward(images)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        evaluate(Probe(), batches())
    assert set(seen) == {torch.float32}


def test_bad_input():
    with pytest.raises(InputError, match="no images"):
        evaluate(Brightest(), [])
    with pytest.raises(InputTypeError, match="neither a network nor a runtime"):
        evaluate("net.onnx", batches())
    with pytest.raises(InputTypeError, match="does not give batches"):
        evaluate(Brightest(), 3)
    with pytest.raises(InputTypeError, match="not logits"):
        evaluate(nn.Identity(), batches())
    with pytest.raises(InputTypeError, match="tuple"):
        evaluate(_Pair(), batches())
    with pytest.raises(InputError, match="4 outputs.*10 classes"):
        evaluate(Brightest(), ps.data.load("digits", limit=20).val)


class _Pair(nn.Module):
    def forward(self, images):
        return images, images


class _Two(nn.Module):
    def forward(self, left, right):
        return (left + right).flatten(1)[:, :4]


def test_several_inputs_dicts_and_lists_of_classes():
    (images, labels), _ = batches()
    pair = (images / 2, images / 2)
    expected = evaluate(Brightest(), [(images, labels)])
    assert evaluate(_Two(), [(pair, labels)]) == expected
    assert evaluate(_Two(), [{"left": pair[0], "right": pair[1], "label": labels}]) == expected
    assert evaluate(Brightest(), [(images.numpy(), labels.tolist())]) == expected


def test_targets_that_are_no_classes_are_refused_by_name():
    images, _ = batches()[0]
    for targets in ([{"boxes": torch.zeros(1, 4)}] * 3, torch.rand(3), None):
        with pytest.raises(InputTypeError, match="one class for each"):
            evaluate(Brightest(), [(images, targets)])
