import hashlib

import pytest
import torch

from pintsize import data
from pintsize.errors import InputError


def pixels(split):
    return torch.cat([images for images, _ in split])


def test_scenes_have_boxes_or_masks_of_the_same_digits():
    boxes, masks = data.load("digits-scenes"), data.load("digits-scenes:masks")
    assert (boxes.task, masks.task) == ("detection", "segmentation")
    assert boxes.classes == tuple("0123456789")
    assert masks.classes == ("background", *"0123456789")
    assert boxes.image_shape == masks.image_shape == (1, 96, 96)
    assert [len(split) for split in (boxes.train, boxes.val, boxes.test)] == [1350, 150, 300]
    seen = set()
    for (images, targets), (again, truth) in zip(boxes.test.batches(64), masks.test.batches(64), strict=True):
        assert torch.equal(images, again)
        for target, mask in zip(targets, truth, strict=True):
            assert 1 <= len(target["boxes"]) <= 5
            seen |= {len(target["boxes"])}
            left_over = mask.clone()
            for (left, top, right, bottom), label in zip(
                target["boxes"].int().tolist(), target["labels"], strict=True
            ):
                window = mask[top:bottom, left:right] == label + 1
                assert all(window.any(dim)[end] for dim in (0, 1) for end in (0, -1))
                left_over[top:bottom, left:right] = 0
            assert not left_over.any()  # all that is marked is in a box
    assert seen == {1, 2, 3, 4, 5}


def test_they_are_the_same_for_every_seed():
    one, two = data.load("digits-scenes", seed=1), data.load("digits-scenes", seed=2)
    assert torch.equal(pixels(one.test), pixels(two.test))
    assert not torch.equal(pixels(one.val), pixels(two.val))
    stored = one.train._store.images.numpy().tobytes()
    assert hashlib.sha256(stored).hexdigest().startswith("9bcbceae")  # NumPy's words never change


def test_options():
    loaded = data.load("digits-scenes", image_size=(48, 96), limit=7)
    images, targets = next(loaded.train.batches(10, augment=True))
    assert images.shape == (7, 1, 48, 96)  # fewer than there are classes: images have no class
    assert all((target["boxes"] <= torch.tensor([96, 48, 96, 48])).all() for target in targets)
    assert loaded.for_task({"name": "detection", "metric": "mAP@.5"}).task["metric"] == "mAP@.5"


def test_names():
    assert {"digits-scenes", "digits-scenes:masks"} <= set(data.list())
    with pytest.raises(InputError, match="did you mean 'digits-scenes"):
        data.load("digit-scenes")
