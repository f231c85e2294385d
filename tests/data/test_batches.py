"""What of a batch is for the network, whatever a loader gives out."""

import numpy as np
import pytest
import torch
from torch import nn

from pintsize import errors
from pintsize.data import split_batch
from pintsize.data.batches import arguments, class_labels, rows, size

X, D, Y = torch.rand(4, 3, 8, 8), torch.rand(4, 1, 8, 8), torch.arange(4)
ONE = nn.Sequential(nn.Conv2d(3, 2, 1))


class Fusion(nn.Module):
    def forward(self, rgb, depth, labels=None):
        return rgb.mean() + depth.mean()


class OfDict(nn.Module):
    def forward(self, batch):
        return batch["image"].mean() + batch["depth"].mean()


@pytest.mark.parametrize(
    ("batch", "targets"),
    [
        (X, None),
        ((X,), None),
        ((X, Y), Y),
        ([X, Y], Y),
        ((X.numpy(), Y.numpy()), Y),
        ({"image": X, "mask": Y}, Y),
        ({"pixel_values": X, "labels": Y}, Y),
        ({"photo": X, "segmentation_map": Y}, Y),
        ((X, ["a"] * 4), ["a"] * 4),
    ],
)
def test_one_input(batch, targets):
    inputs, found = split_batch(batch, ONE)
    assert torch.equal(inputs, X)
    if isinstance(targets, torch.Tensor):
        assert torch.equal(found, targets)
    else:
        assert found == targets


@pytest.mark.parametrize(
    "batch", [((X, D), Y), (X, D, Y), {"depth": D, "rgb": X, "labels": Y}, ({"depth": D, "rgb": X}, Y)]
)
def test_several_inputs(batch):
    inputs, targets = split_batch(batch, Fusion())
    assert [one is other for one, other in zip(inputs, (X, D), strict=True)] == [True, True]
    assert targets is Y


def test_pairs_are_both_inputs_of_a_network_of_two():
    assert split_batch((X, D), Fusion())[1] is None


def test_a_network_that_takes_a_dict_is_given_one():
    (given,), targets = split_batch({"image": X, "depth": D, "mask": Y}, OfDict())
    assert set(given) == {"image", "depth"}
    assert targets is Y


def test_several_targets_stay_together():
    assert split_batch((X, Y, "name"))[1] == (Y, "name")


@pytest.mark.parametrize("batch", [3, {}, {"a": X, "b": X}, (X.byte(), Y), [None]])
def test_what_no_network_can_look_at_is_refused(batch):
    with pytest.raises((errors.InputTypeError, errors.InputError), match="images are|not clear"):
        split_batch(batch, ONE)


def test_arrays_in_float64_become_float32():
    assert split_batch(np.zeros((2, 3, 4, 4)))[0].dtype == torch.float32


def test_rows_cut_what_has_one_entry_an_image():
    cut = rows((X, {"t": Y, "name": "n", "list": [1, 2, 3, 4]}), 1, 3, of=4)
    assert len(cut[0]) == 2
    assert cut[1]["t"].tolist() == [1, 2]
    assert (cut[1]["name"], cut[1]["list"]) == ("n", [2, 3])


@pytest.mark.parametrize(
    "targets", [None, torch.rand(4), torch.zeros(4, 2).long(), ["a"] * 4, torch.zeros(4).bool()]
)
def test_no_classes(targets):
    assert class_labels(targets, 4) is None


def test_classes():
    assert class_labels([3, 1], 2).tolist() == [3, 1]
    assert class_labels(torch.tensor([1], dtype=torch.int32), 1).dtype == torch.int64


class OfImages(nn.Module):
    """As torchvision's detectors."""

    def forward(self, images, targets=None):
        return torch.stack([image.mean() for image in images])


class WithMask(nn.Module):
    def forward(self, image, mask=None):
        return image


APART = [torch.rand(3, 8, 8), torch.rand(3, 6, 10), torch.rand(3, 5, 5)]
BOXES = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()} for _ in APART]


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("model", [None, OfImages()])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_images_one_by_one_with_a_dict_for_each_are_one_input(kind, model, count):
    inputs, targets = split_batch((kind(APART[:count]), kind(BOXES[:count])), model)
    assert isinstance(inputs, list)
    assert arguments(inputs) == (inputs,)
    assert size(inputs) == count
    assert len(targets) == count
    assert [len(part) for part in (rows(inputs, 0, 1), rows(targets, 0, 1, of=count))] == [1, 1]
    assert rows(inputs, 0, 1)[0].shape == (3, 8, 8)


def test_images_one_by_one_are_known_by_what_the_network_takes():
    inputs, _ = split_batch((APART, torch.zeros(3)), OfImages())
    assert isinstance(inputs, list)
    assert isinstance(split_batch((APART,), ONE)[0], list)
    assert size(split_batch((APART, torch.zeros(3)))[0]) == 3


def test_several_inputs_stay_several():
    assert isinstance(split_batch(([X, D], Y), Fusion())[0], tuple)  # as default_collate gives a tuple back
    assert isinstance(split_batch(([X, D], Y))[0], tuple)
    assert size(split_batch(([X, D], Y))[0]) == 4
    signals = [torch.rand(4, 2, 9), torch.rand(4, 2, 5)]
    assert isinstance(split_batch((signals, Y), Fusion())[0], tuple)
    assert isinstance(split_batch((signals, Y), WithMask())[0], tuple)
    assert isinstance(split_batch(((torch.rand(4, 3),), Y), ONE)[0], tuple)
