import numpy as np
import pytest
import torch

from pintsize.data import chance
from pintsize.errors import InputError


def test_words_never_change():
    # Written down once: a change would silently move images between train and validation.
    assert chance.words(3, 0, 0, 0).tolist() == [
        11749869230777074271,
        4976686463289251617,
        755828109848996024,
    ]


def test_order_is_a_permutation_that_its_key_determines():
    order = chance.order(100, chance.SHUFFLE, 1, 2)
    assert order.sort().values.equal(torch.arange(100))
    assert order.equal(chance.order(100, chance.SHUFFLE, 1, 2))
    for other in ((chance.SHUFFLE, 1, 3), (chance.SHUFFLE, 2, 2), (chance.AUGMENT, 1, 2)):
        assert not order.equal(chance.order(100, *other))


def test_stratified_gives_every_class_its_share():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    chosen = chance.stratified(labels, 10, chance.VALIDATION, 0)
    assert torch.bincount(labels[chosen]).tolist() == [5, 3, 2]
    assert chosen.equal(chosen.unique())


def test_stratified_deals_the_odd_seats_by_largest_remainder():
    labels = torch.tensor([0] * 7 + [1] * 2 + [2] * 1)  # shares of 5: 3.5, 1.0, 0.5
    assert torch.bincount(labels[chance.stratified(labels, 5, 0, 0)]).tolist() == [4, 1]
    labels = torch.tensor([2] * 7 + [1] * 2 + [0] * 6)  # shares of 4 of 15: 1.6, .53, 1.87
    assert torch.bincount(labels[chance.stratified(labels, 4, 0, 0)]).tolist() == [2, 0, 2]


def test_stratified_takes_all_or_none():
    labels = torch.tensor([1, 0, 1])
    assert chance.stratified(labels, 3, 0, 0).tolist() == [0, 1, 2]
    assert chance.stratified(labels, 0, 0, 0).tolist() == []


def test_stratified_chooses_by_key():
    labels = torch.zeros(1000, dtype=torch.int64)
    first, second = (set(chance.stratified(labels, 100, chance.SUBSET, seed).tolist()) for seed in (0, 1))
    assert len(first & second) < 30  # 10 expected


@pytest.mark.parametrize("value", [0, -1, 1.0, "3", None, True])
def test_a_count_that_is_none_is_refused(value):
    with pytest.raises(InputError, match=r"limit=.*whole number of at least 1"):
        chance.check_whole("limit", value, least=1)


def test_numpy_counts_are_taken():
    chance.check_whole("limit", np.int64(4), least=1)
