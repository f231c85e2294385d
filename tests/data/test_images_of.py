import pytest
import torch

from pintsize.data import MemoryStore, Split, Transform, images_of
from pintsize.errors import InputError, InputTypeError


def batches(*sizes: int) -> list[torch.Tensor]:
    return [torch.full((size, 3, 4, 4), float(size)) for size in sizes]


def sizes(source, limit=None) -> list[int]:
    return [len(images) for images in images_of(source, limit)]


def test_takes_pairs_tensors_and_one_tensor():
    pairs = [(images, torch.zeros(len(images))) for images in batches(2, 3)]
    assert sizes(pairs) == sizes(batches(2, 3)) == sizes(iter(pairs)) == [2, 3]
    assert sizes([list(pair) for pair in pairs]) == [2, 3]
    assert sizes(batches(4)[0]) == [4]


def test_takes_a_split():
    store = MemoryStore(torch.zeros(300, 4, 4, 1, dtype=torch.uint8))
    split = Split(store, torch.zeros(300, dtype=torch.int64), ("a",), Transform((0.0,), (1.0,)))
    assert sizes(split) == [256, 44]


def test_a_split_in_order_of_its_classes_gives_images_of_all():
    """As the splits of image folders are."""
    labels = torch.arange(4).repeat_interleave(100)
    store = MemoryStore(labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 2, 2, 1).contiguous())
    split = Split(store, labels, tuple("abcd"), Transform((0.0,), (1.0,)))
    some = torch.cat(list(images_of(split, 40)))[:, 0, 0, 0]
    assert some.unique(return_counts=True)[1].tolist() == [10] * 4
    assert not some.equal(some.sort().values)
    assert torch.equal(some, torch.cat(list(images_of(split, 40)))[:, 0, 0, 0])
    assert len(next(iter(images_of(split)))[:, 0, 0, 0].unique()) == 4


@pytest.mark.parametrize(("limit", "expected"), [(1, [1]), (2, [2]), (4, [2, 2]), (5, [2, 3]), (9, [2, 3])])
def test_limit_counts_images(limit, expected):
    assert sizes(batches(2, 3), limit) == expected


def test_limit_asks_for_no_batch_too_many():
    def source():
        yield from batches(2)
        raise AssertionError("one batch was enough")

    assert sizes(source(), 2) == [2]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "int"),
        ([torch.zeros(2, 3, 4, 4, dtype=torch.uint8)], "uint8"),
        (
            (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64)),
            "int64",
        ),  # one pair, not a list of them
        ([{"image": 1}], "dict"),
        ([()], "tuple"),
        ([torch.tensor(1.0)], r"shape \(\)"),
    ],
)
def test_what_gives_no_images_is_refused(source, message):
    with pytest.raises(InputTypeError, match=message):
        list(images_of(source))


def test_bad_limit_is_refused_at_once():
    with pytest.raises(InputError, match="limit=0"):
        images_of([], 0)
