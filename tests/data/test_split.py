import time

import numpy as np
import pytest
import torch

from pintsize.data import MemoryStore, Split, Transform
from pintsize.errors import InputError, InputTypeError

SAME = Transform((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), pad=2, flip=True)


def make(n: int = 20, classes: int = 4, side: int = 8, transform: Transform = SAME) -> Split:
    """Image i has the value i in its red channel at every pixel."""
    images = torch.randint(
        0, 256, (n, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    images[..., 0] = torch.arange(n, dtype=torch.uint8).view(n, 1, 1)
    return Split(MemoryStore(images), torch.arange(n) % classes, tuple("abcd"[:classes]), transform)


def numbers(images: torch.Tensor) -> list[int]:
    return (images[:, 0].amax((1, 2)) * 255).round().int().tolist()


def joined(split: Split, **options) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(split.batches(**options))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def test_plain_batches_are_in_order():
    split = make()
    batches = list(split.batches(8))
    assert [len(images) for images, _ in batches] == [8, 8, 4]
    assert [number for images, _ in batches for number in numbers(images)] == list(range(20))
    images, labels = batches[0]
    assert images.dtype == torch.float32
    assert images.shape == (8, 3, 8, 8) == (8, *split.image_shape)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_iterating_is_batches():
    ((images, labels),) = list(make())
    assert len(images) == len(labels) == 20


@pytest.mark.parametrize(
    ("size", "drop", "expected"), [(8, False, 3), (8, True, 2), (10, False, 2), (10, True, 2), (50, True, 0)]
)
def test_num_batches_is_what_batches_gives(size, drop, expected):
    split = make()
    assert (
        split.num_batches(size, drop_last=drop) == expected == len(list(split.batches(size, drop_last=drop)))
    )


def test_shuffled_labels_go_with_their_images():
    images, labels = joined(make(), batch_size=6, shuffle=True, augment=True, seed=3, epoch=1)
    shown = numbers(images)
    assert sorted(shown) == list(range(20)) != shown
    assert [number % 4 for number in shown] == labels.tolist()


def test_seed_and_epoch_determine_everything():
    def epoch(seed, number):
        return joined(make(), batch_size=6, shuffle=True, augment=True, seed=seed, epoch=number)[0]

    torch.manual_seed(1)
    first = epoch(0, 5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(first, epoch(0, 5))
    assert torch.equal(state, torch.get_rng_state())  # and the global generator is left alone
    assert not torch.equal(first, epoch(0, 6))
    assert not torch.equal(first, epoch(1, 5))


def test_what_becomes_of_an_image_depends_on_neither_batch_size_nor_order():
    split = make()
    plain, _ = joined(split, batch_size=20, augment=True, epoch=2)
    shuffled, _ = joined(split, batch_size=3, augment=True, shuffle=True, epoch=2)
    for number, image in zip(numbers(shuffled), shuffled, strict=True):
        assert torch.equal(image, plain[number])
    assert not torch.equal(plain, joined(split, batch_size=20)[0])


def test_two_iterators_do_not_disturb_each_other():
    split = make()
    one, two = split.batches(4, shuffle=True), split.batches(4, shuffle=True)
    for (a, _), (b, _) in zip(one, two, strict=True):
        assert torch.equal(a, b)


def test_take_and_subset_share_the_store():
    split = make().take(torch.tensor([5, 7, 9, 11])).take(torch.tensor([1, 3]))
    images, labels = joined(split)
    assert numbers(images) == [7, 11]
    assert labels.tolist() == split.labels.tolist() == [3, 3]


def test_subset_is_stratified_and_determined():
    split = make()
    part = split.subset(8, seed=1)
    assert torch.bincount(part.labels).tolist() == [2, 2, 2, 2]
    assert torch.equal(joined(part)[0], joined(split.subset(8, seed=1))[0])
    assert not torch.equal(joined(part)[0], joined(split.subset(8, seed=2))[0])
    assert len(split.subset(1)) == 1
    assert split.subset(20).labels.equal(split.labels)


def test_other_devices_get_the_batches():
    images, labels = next(make().batches(4, device="meta"))
    assert images.device.type == labels.device.type == "meta"
    assert images.shape == (4, 3, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"seed": -1}, "seed=-1"),
        ({"epoch": -1}, "epoch=-1"),
    ],
)
def test_bad_options_are_refused_at_once(options, message):
    with pytest.raises(InputError, match=message):
        make().batches(**options)


def test_bad_subsets_are_refused():
    for n in (0, 21, 3.0):
        with pytest.raises(InputError):
            make().subset(n)


def test_a_memory_store_holds_bytes():
    with pytest.raises(InputTypeError, match="float32"):
        MemoryStore(torch.zeros(2, 8, 8, 3))
    with pytest.raises(InputTypeError, match=r"\(8, 8, 3\)"):
        MemoryStore(torch.zeros(8, 8, 3, dtype=torch.uint8))


def test_augmenting_costs_little_more_than_converting():
    images = torch.randint(0, 256, (10_000, 32, 32, 3), dtype=torch.uint8)
    transform = Transform((0.5,) * 3, (0.2,) * 3, pad=4, flip=True)
    split = Split(MemoryStore(images), torch.zeros(len(images), dtype=torch.int64), ("a",), transform)
    seconds = {True: [], False: []}
    for epoch in range(4):  # in turns, as machines have slow minutes
        for augment, found in seconds.items():
            start = time.process_time()
            for _ in split.batches(128, shuffle=True, augment=augment, epoch=epoch):
                pass
            found.append(time.process_time() - start)
    assert min(seconds[True]) < 8 * min(seconds[False]), seconds


def test_words_reach_the_transform_image_by_image():
    split = make(transform=Transform((0.0,) * 3, (1.0,) * 3, pad=2, flip=False))
    augmented, _ = joined(split, augment=True)
    stored = joined(split)[0]
    moved = [not torch.equal(a, b) for a, b in zip(augmented, stored, strict=True)]
    assert np.mean(moved) > 0.8  # 24 of 25 crops move an image
    assert len({tuple(image[1].flatten().tolist()) for image in augmented}) == 20
