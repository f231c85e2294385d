"""Loaders that a part is cut off, and loaders that do not begin anew."""

from functools import partial

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from pintsize.data import from_loaders
from pintsize.errors import InputError, InputTypeError

NUMBERS = torch.arange(20.0).view(20, 1, 1, 1).expand(20, 1, 2, 2)
PAIRS = TensorDataset(NUMBERS, torch.arange(20))


def given_out(split):
    return [targets.tolist() for _, targets in split.batches(3)]


def test_a_cut_loader_keeps_what_it_was_asked_for():
    def negated(examples):
        images, targets = torch.utils.data.default_collate(examples)
        return -images, targets

    loader = DataLoader(PAIRS, batch_size=4, drop_last=True, collate_fn=negated, timeout=0)
    data = from_loaders(loader, val_fraction=0.1)
    train, val = given_out(data.train), given_out(data.val)
    assert [len(batch) for batch in train] == [4] * 4  # of 18 the last two are dropped
    flat = [one for batch in train for one in batch]
    assert flat == sorted(flat)  # nobody asked for another order
    assert (len(data.train), data.train.num_batches(), len(val[0])) == (16, 4, 2)
    assert next(iter(data.train))[0].max() <= 0


def test_a_cut_loader_shuffles_by_its_own_generator():
    orders = []
    for seed in (0, 0, 1):
        loader = DataLoader(PAIRS, batch_size=20, shuffle=True, generator=torch.Generator().manual_seed(seed))
        data = from_loaders(loader)
        orders.append(given_out(data.train)[0])
        assert given_out(data.train)[0] != orders[-1]
        assert given_out(data.val) == given_out(data.val)
    assert orders[0] == orders[1] != orders[2]


class Halves(DataLoader):
    def __iter__(self):
        for images, targets in super().__iter__():
            yield images / 2, targets


@pytest.mark.parametrize(
    ("loader", "told"),
    [
        (DataLoader(PAIRS, batch_sampler=BatchSampler(RandomSampler(PAIRS), 4, False)), "own batch_sampler"),
        (DataLoader(PAIRS, sampler=SubsetRandomSampler(range(10))), "own sampler"),
        (DataLoader(PAIRS, sampler=WeightedRandomSampler([1.0] * 20, 20)), "own sampler"),
        (DataLoader(PAIRS, sampler=RandomSampler(PAIRS, replacement=True)), "own sampler"),
        (DataLoader(PAIRS, sampler=RandomSampler(PAIRS, num_samples=5)), "own sampler"),
        (DataLoader(PAIRS, batch_size=None), "own batch_size=None"),
        (Halves(PAIRS), "own __iter__"),
    ],
)
def test_a_loader_that_cannot_be_made_again_is_not_cut(loader, told):
    with pytest.raises(InputError, match=f"val=None: .*{told}.*pass a loader of each part: train=, val="):
        from_loaders(loader)
    data = from_loaders(loader, loader, task="regression")
    assert len(data.train) == sum(len(targets) if targets.dim() else 1 for _, targets in data.train)


class Stream(IterableDataset):
    """Examples of its own making, with or without a length."""

    def __init__(self, begin):
        self.begin = begin

    def __iter__(self):
        return self.begin()


class Long(Stream):
    def __len__(self):
        return 20


class Anew(Long):
    """Hands out itself, and begins anew."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        self.at = 0
        return self

    def __next__(self):
        self.at += 1
        if self.at > 20:
            raise StopIteration
        return PAIRS[self.at - 1]


DIFFERENT, ALIKE = list(PAIRS), [(NUMBERS[0], 0)] * 20


@pytest.mark.parametrize(
    "again", [lambda left: left, lambda left: (one for one in left)], ids=["same", "generator"]
)
@pytest.mark.parametrize(
    ("stream", "examples"), [(Stream, DIFFERENT), (Stream, ALIKE), (Long, DIFFERENT), (Long, ALIKE)]
)
def test_a_loader_of_a_stream_that_ends_for_good_is_told_at_once(again, stream, examples):
    if stream is Long and examples is ALIKE:  # of these a generator looks like one that begins anew
        again = iter
    good = [next(iter(DataLoader(PAIRS, batch_size=4)))]
    for part in range(3):
        parts = [good, good, good]
        parts[part] = DataLoader(stream(partial(again, iter(examples))), batch_size=4)
        with pytest.raises(
            InputTypeError, match="= a DataLoader: it gives its batches once.*__iter__ begins anew"
        ):
            from_loaders(*parts)


@pytest.mark.parametrize(
    "make", [lambda: Stream(lambda: iter(PAIRS)), lambda: Long(lambda: iter(PAIRS)), Anew]
)
def test_a_loader_of_a_stream_that_begins_anew(make):
    loader = DataLoader(make(), batch_size=8)
    data = from_loaders(loader, loader)
    for _ in range(2):
        assert [len(batch) for batch in given_out(data.train)] == [8, 8, 4]
    assert len(data.train) == 20
    with pytest.raises(InputTypeError, match=r"streams single examples.*DataLoader\(data_set"):
        from_loaders(make(), loader)
    with pytest.raises(InputError, match="val=None.*pass val="):
        from_loaders(loader)


def test_looking_at_loaders_leaves_the_global_order_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    from_loaders(DataLoader(PAIRS, batch_size=4, shuffle=True))
    assert torch.equal(torch.rand(1), expected)
