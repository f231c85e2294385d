"""What becomes of an image becomes of its masks and boxes."""

import numpy as np
import pytest
import torch

from pintsize.data import MemoryStore, Split, Transform
from pintsize.data.digest import data_digest
from pintsize.data.split import Data
from pintsize.data.targets import Boxes, Masks, clipped, follow

PLAIN = {"mean": (0.0,), "std": (1.0,), "peak": 1}
H, W = 12, 20


def scenes(n=24, seed=0):
    """Images with one filled rectangle each, its mask and its box."""
    chance = np.random.default_rng(seed)
    images, boxes = torch.zeros(n, H, W, 1, dtype=torch.uint8), []
    for image in images:
        top, left = chance.integers(0, H - 3), chance.integers(0, W - 3)
        bottom, right = chance.integers(top + 2, H + 1), chance.integers(left + 2, W + 1)
        image[top:bottom, left:right] = 1
        boxes.append(
            {"boxes": torch.tensor([[left, top, right, bottom]]).float(), "labels": torch.tensor([int(left)])}
        )
    return images, boxes


def splits(transform, **options):
    images, boxes = scenes()
    store, order = MemoryStore(images), torch.arange(len(images))
    masks = Masks(MemoryStore(images), order)
    return (
        Split(store, masks, ("background", "thing"), transform, task=options.get("task", "segmentation")),
        Split(store, Boxes(boxes), tuple(map(str, range(W))), transform, task="detection"),
    )


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize(("pad", "flip"), [(0, True), (3, False), (3, True)])
def test_masks_and_boxes_go_where_the_pixels_go(augment, pad, flip):
    of_pixels, of_boxes = splits(Transform(**PLAIN, pad=pad, flip=flip))
    options = {"shuffle": True, "augment": augment, "epoch": 3, "seed": 1}
    moved = 0
    for (images, masks), (again, boxes) in zip(
        of_pixels.batches(5, **options), of_boxes.batches(7, **options), strict=False
    ):
        assert masks.dtype == torch.int64
        assert torch.equal(images[:5, 0] == 1, masks == 1)
        assert ((masks == 255) <= (images[:, 0] == 0)).all()  # beyond the border nothing counts
        moved += int((masks == 255).sum())
        for image, target in zip(again[:, 0], boxes, strict=True):
            rows, columns = (image.any(dim).nonzero().flatten() for dim in (1, 0))
            if len(target["boxes"]):
                shown = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                assert target["boxes"].tolist() == [[float(side) for side in shown]]
    assert (moved > 0) == (augment and pad > 0)


def test_what_becomes_of_a_box_does_not_depend_on_the_batch():
    _, split = splits(Transform(**PLAIN, pad=3, flip=True))

    def one(size):
        return [
            target["boxes"].tolist() for _, targets in split.batches(size, augment=True) for target in targets
        ]

    assert one(1) == one(24)


def test_the_border_has_the_ignore_index_of_the_task():
    split, _ = splits(Transform(**PLAIN, pad=3), task={"name": "segmentation", "ignore_index": 7})
    _, masks = next(split.batches(24, augment=True))
    assert set(masks.unique().tolist()) == {0, 1, 7}


def test_resizing_resizes_targets():
    of_pixels, of_boxes = splits(Transform(**PLAIN, size=(2 * H, 3 * W)))
    (images, masks), (_, boxes) = next(of_pixels.batches(24)), next(of_boxes.batches(24))
    assert images.shape[2:] == masks.shape[1:] == (2 * H, 3 * W)
    _, whole = scenes()
    for mask, target, before in zip(masks, boxes, whole, strict=True):
        assert target["boxes"].tolist() == (before["boxes"] * torch.tensor([3.0, 2, 3, 2])).tolist()
        left, top, right, bottom = target["boxes"][0].int().tolist()
        assert mask[top:bottom, left:right].all()
        assert mask.sum() == (bottom - top) * (right - left)


def test_a_box_of_which_less_than_a_tenth_is_left_is_dropped():
    boxes = torch.tensor(
        [[-9.0, 0, 1, 10], [-9.1, 0, 0.9, 10], [5, 5, 9, 9], [30, 0, 40, 10], [15, 8, 25, 18]]
    )
    within, kept = clipped(boxes, (H, W))
    assert kept.tolist() == [True, False, True, False, True]
    assert within[kept].tolist() == [[0, 0, 1, 10], [5, 5, 9, 9], [15, 8, 20, 12]]


def test_by_hand():
    # moved 2 left and 1 up, then mirrored: words say offsets 3 (of 0 … 2, so pad 1) only up to 1; pad 2 is needed
    transform = Transform(**PLAIN, pad=2, flip=True)
    word = np.array([3 + 5 * 4], np.uint64)  # one row down, two columns right
    target = [{"boxes": torch.tensor([[4.0, 3, 8, 9]]), "labels": torch.tensor([1])}]
    (moved,) = follow(target, transform, word, (H, W), ignored=255)
    assert moved["boxes"].tolist() == [[2, 2, 6, 8]]
    assert target[0]["boxes"].tolist() == [[4, 3, 8, 9]]
    flipped = np.array([(1 << 63) + (12 - (1 << 63)) % 25], np.uint64)  # moves nothing: 12 = 2 + 5 · 2
    (moved,) = follow(target, transform, flipped, (H, W), ignored=255)
    assert moved["boxes"].tolist() == [[W - 8, 3, W - 4, 9]]


def test_subsets_are_chosen_by_seed_alone():
    for split in splits(Transform(**PLAIN)):
        part = split.subset(6, seed=1)
        (images, targets), (again, _) = next(part.batches()), next(split.subset(6, seed=1).batches())
        assert len(part) == len(images) == len(targets) == 6
        assert torch.equal(images, again)
        assert not torch.equal(images, next(split.subset(6, seed=2).batches())[0])
        assert len(split.take(torch.tensor([3])).labels) == 1


def test_numbers_stay_as_they_are():
    images, _ = scenes()
    numbers = torch.rand(len(images), 2)
    split = Split(MemoryStore(images), numbers, ("a", "b"), Transform(**PLAIN, pad=2, flip=True))
    assert torch.equal(next(split.batches(24, augment=True))[1], numbers)
    assert next(split.subset(5).batches())[1].shape == (5, 2)


def test_other_devices_get_masks():
    split, _ = splits(Transform(**PLAIN, pad=2))
    images, masks = next(split.batches(4, device="meta"))
    assert images.device.type == masks.device.type == "meta"


def test_a_digest_tells_targets_apart():
    def digest(change):
        found = []
        for split in splits(Transform(**PLAIN)):
            change(split)
            found.append(
                data_digest(Data("x", split, split, split, split.classes, split.image_shape, (0.0,), (1.0,)))
            )
        return found

    def boxes_or_masks(split):
        split.labels = split.labels[torch.arange(23, -1, -1)]

    assert digest(lambda split: None) == digest(lambda split: None)
    assert all(a != b for a, b in zip(digest(lambda split: None), digest(boxes_or_masks), strict=True))
