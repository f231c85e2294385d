"""Loaders of one's own as splits."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pintsize as ps
from pintsize.errors import InputError, InputTypeError, OperationError

IMAGES, CLASSES = torch.rand(20, 3, 8, 12), torch.arange(20) % 2
PAIRS = TensorDataset(IMAGES, CLASSES)


def test_a_data_set_is_cut_by_seed_and_batched():
    data = ps.data.from_loaders(PAIRS, val_fraction=0.2, classes=2)
    assert (len(data.train), len(data.val), len(data.test)) == (16, 4, 4)
    assert data.image_shape == (3, 8, 12)
    assert data.classes == ("0", "1")
    again = ps.data.from_loaders(PAIRS, val_fraction=0.2)
    assert torch.equal(next(iter(data.val.batches(4)))[0], next(iter(again.val.batches(4)))[0])
    other = ps.data.from_loaders(PAIRS, val_fraction=0.2, seed=1)
    assert not torch.equal(next(iter(data.val.batches(4)))[0], next(iter(other.val.batches(4)))[0])
    sizes = [len(images) for images, _ in data.train.batches(5)]
    assert sizes == [5, 5, 5, 1]
    assert data.train.num_batches(5) == 4
    assert data.train.num_batches(5, drop_last=True) == len(list(data.train.batches(5, drop_last=True))) == 3


def test_the_order_is_that_of_seed_and_epoch():
    data = ps.data.from_loaders(PAIRS)
    first, second = (
        torch.cat([images for images, _ in data.train.batches(4, shuffle=True, epoch=epoch)])
        for epoch in (0, 1)
    )
    assert not torch.equal(first, second)
    again = torch.cat([images for images, _ in data.train.batches(4, shuffle=True, epoch=1)])
    assert torch.equal(second, again)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(PAIRS, batch_size=8),
        lambda: [(IMAGES[:8], CLASSES[:8]), (IMAGES[8:16], CLASSES[8:16]), (IMAGES[16:], CLASSES[16:])],
        lambda: (
            lambda: iter(
                [(IMAGES[:8], CLASSES[:8]), (IMAGES[8:16], CLASSES[8:16]), (IMAGES[16:], CLASSES[16:])]
            )
        ),
    ],
    ids=["loader", "list", "function"],
)
def test_batches_that_are_made_already(make):
    split = ps.data.from_loaders(make(), make()).train
    for _ in range(2):
        assert [len(images) for images, _ in split.batches(3)] == [8, 8, 4]
    assert (len(split), split.num_batches()) == (20, 3)
    few = split.subset(10)
    assert [len(images) for images, _ in few.batches()] == [8, 2]
    assert (len(few), few.num_batches()) == (10, 2)


def test_bytes_become_numbers_between_0_and_1():
    pixels = torch.full((4, 3, 8, 8), 255, dtype=torch.uint8)
    data = ps.data.from_loaders([(pixels, CLASSES[:4])], [(pixels.numpy(), CLASSES[:4])])
    for split in (data.train, data.val):
        images, classes = next(iter(split))
        assert images.dtype == torch.float32
        assert images.max() == 1
        assert classes.dtype == torch.int64


def test_images_without_targets_are_for_imitation():
    data = ps.data.from_loaders([IMAGES], [IMAGES])
    assert data.task == "imitation"
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    net(IMAGES[:1])
    with pytest.raises(InputTypeError, match=r"without targets.*imitation"):
        ps.train(net, data, epochs=1)
    assert ps.evaluate(net, ps.tasks.imitate(data, net).val) == pytest.approx(100)


def test_images_of_different_sizes_stay_a_list():
    pairs = [(torch.rand(3, 8, 8 + i), i) for i in range(4)]

    class Pairs(torch.utils.data.Dataset):
        def __len__(self):
            return len(pairs)

        def __getitem__(self, i):
            return pairs[i]

    images, targets = next(iter(ps.data.from_loaders(Pairs(), Pairs()).train.batches(4)))
    assert [list(one.shape) for one in images] == [[3, 8, 8], [3, 8, 9], [3, 8, 10], [3, 8, 11]]
    assert targets.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("train", "val", "words"),
    [
        (iter([IMAGES]), [IMAGES], r"train= a list_iterator.*once.*function"),
        ([IMAGES], (batch for batch in [IMAGES]), r"val= a generator.*once"),
        ([IMAGES], 3, "val= int.*gives no batches"),
        (IMAGES, [IMAGES], "train= Tensor"),
        ([IMAGES], None, r"val=None.*already.*pass val="),
    ],
)
def test_what_gives_no_batches_is_refused(train, val, words):
    with pytest.raises((InputTypeError, InputError), match=words):
        ps.data.from_loaders(train, val)


def test_a_loader_that_is_exhausted_or_fails():
    once = iter([(IMAGES, CLASSES)] * 2)
    with pytest.raises(InputTypeError, match=r"val= a function.*batches once.*gone through again"):
        ps.data.from_loaders([(IMAGES, CLASSES)], lambda: once, task="classification")
    with pytest.raises(OperationError, match=r"loader 'val'.*no batch.*gone through again"):
        ps.data.from_loaders([(IMAGES, CLASSES)], list)

    def broken():
        yield IMAGES, CLASSES
        raise ValueError("disk gone")

    with pytest.raises(OperationError, match=r"loader 'train'.*ValueError: disk gone"):
        list(ps.data.from_loaders(broken, [(IMAGES, CLASSES)]).train.batches())


def test_what_does_not_fit_is_told_before_training():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    with pytest.raises(InputTypeError, match=r"masks \[2\].*\[2, 4, 8, 12\]"):
        ps.train(net, ps.data.from_loaders(PAIRS, task="segmentation"), epochs=1)
    with pytest.raises(InputTypeError, match=r"name the task, such as task='segmentation'"):
        ps.train(net, ps.data.from_loaders(PAIRS), epochs=1)

    def shouts(outputs, targets):
        raise KeyError("boxes")

    data = ps.data.from_loaders(PAIRS)
    with pytest.raises(OperationError, match=r"loss of task.*first batch.*KeyError.*int64 \[2\]"):
        ps.train(net, data, task=ps.Task(loss=shouts), epochs=1)
    far = ps.Task(loss=lambda outputs, targets: outputs.mean() * float("inf"))
    with pytest.raises(OperationError, match=r"loss of task.*inf"):
        ps.train(net, data, task=far, epochs=1)


def test_images_of_several_sizes_are_counted_and_cut_by_image():
    images = [torch.rand(3, 8, 8), torch.rand(3, 6, 10), torch.rand(3, 5, 5)]
    targets = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()} for _ in images]
    for kind in (list, tuple):  # torchvision's own collate gives tuples: tuple(zip(*batch))
        batches = [(kind(images), kind(targets))] * 2
        split = ps.data.from_loaders(batches, batches, task="detection").train
        assert len(split) == 6
        given = list(split.subset(4).batches())
        assert [len(batch[0]) for batch in given] == [3, 1]
        assert given[1][0][0].shape == (3, 8, 8)
        assert len(given[1][1]) == 1


def test_parts_with_and_without_targets_are_refused():
    pairs, images = [(IMAGES, CLASSES)], [IMAGES]
    for parts, bare in (
        ((pairs, images), "val"),
        ((images, pairs), "train"),
        ((pairs, pairs, images), "test"),
    ):
        with pytest.raises(InputError, match=rf"{bare}= batches without targets.*task='imitation'"):
            ps.data.from_loaders(*parts)
        assert ps.data.from_loaders(*parts, task="imitation").task == "imitation"


def test_dicts_of_which_it_is_not_clear_what_is_a_target():
    batches = [{"image": IMAGES, "age": torch.rand(20, 1)}]
    with pytest.raises(InputError, match=r"batches with 'image', 'age'.*not clear.*task='regression'"):
        ps.data.from_loaders(batches, batches)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    data = ps.data.from_loaders(batches, batches, task="regression")
    assert ps.evaluate(net, data.val) > 0
    assert ps.data.from_loaders([{"image": IMAGES}], [{"image": IMAGES}]).task == "imitation"
    assert (
        ps.data.from_loaders([{"image": IMAGES, "target": CLASSES}], batches, task="regression").task
        == "regression"
    )


def test_a_list_in_place_of_a_split_is_told():
    data = ps.data.from_loaders(PAIRS)
    with pytest.raises(InputTypeError, match=r"train= list: it is no split; .*from_loaders\(train, val\)"):
        dataclasses.replace(data, train=[(IMAGES, CLASSES)])


@pytest.mark.parametrize("count", [0, 1])
def test_a_data_set_with_too_little_to_cut_says_so(count):
    few = torch.utils.data.TensorDataset(torch.zeros(count, 1, 4, 4), torch.zeros(count).long())
    for source in (few, torch.utils.data.DataLoader(few)):
        with pytest.raises(
            InputError, match=f"TensorDataset of {count} examples: .* pass two examples or more"
        ):
            ps.data.from_loaders(source)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_images_of_another_precision_say_how_to_go_on(dtype):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    pairs = [(torch.zeros(4, 1, 4, 4, dtype=dtype), torch.zeros(4).long())]
    with pytest.raises(OperationError, match=rf"precision of the weights, .*model.to\({dtype}\)"):
        ps.train(net, ps.data.from_loaders(pairs, pairs), epochs=1, progress=False)
    assert ps.train(net.to(dtype), ps.data.from_loaders(pairs, pairs), epochs=1, batch_size=4, progress=False)
