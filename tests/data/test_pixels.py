"""uint8 in batches of loaders: images become numbers from 0 to 1, masks stay what they are."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import pintsize as ps
from pintsize.data import from_loaders, split_batch

RGB = torch.full((6, 3, 8, 12), 255, dtype=torch.uint8)
DEPTH, MASKS = RGB[:, :1].clone(), torch.full((6, 1, 8, 12), 2, dtype=torch.uint8)
LABELS = torch.arange(6) % 2


class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, image):
        return self.head(image).mean((2, 3))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.rgb, self.depth = nn.Conv2d(3, 2, 1), nn.Conv2d(1, 2, 1)

    def forward(self, rgb, depth):
        return (self.rgb(rgb) + self.depth(depth)).mean((2, 3))


class OfDict(Two):
    def forward(self, views):
        return super().forward(views["rgb"], views["depth"])


class Examples(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, at):
        return {"image": RGB[at], "label": LABELS[at]}


@pytest.mark.parametrize(
    ("source", "model"),
    [
        ([{"image": RGB, "label": LABELS}], One()),
        ([{"image": RGB.numpy(), "label": LABELS}], One()),
        ([{"photo": RGB, "label": LABELS}], One()),
        (Examples(), One()),
        ([(RGB, LABELS)], One()),
        ([[RGB, LABELS, ["a"] * 6]], One()),
        ([({"rgb": RGB, "depth": DEPTH}, LABELS)], Two()),
        ([({"rgb": RGB, "depth": DEPTH}, LABELS)], OfDict()),
        ([{"rgb": RGB, "depth": DEPTH, "label": LABELS}], Two()),
        ([{"rgb": RGB, "depth": DEPTH, "label": LABELS}], OfDict()),
        ([((RGB, DEPTH), LABELS)], Two()),
        ([(RGB, DEPTH, LABELS)], Two()),
    ],
)  # fmt: skip
def test_images_of_any_batch_are_brought_to_1(source, model):
    inputs, targets = split_batch(next(iter(from_loaders(source, source).val.batches(6))), model)
    leaves = torch.utils._pytree.tree_leaves(inputs)
    assert [(leaf.dtype, float(leaf.min()), float(leaf.max())) for leaf in leaves] == [
        (torch.float32, 1, 1)
    ] * len(leaves)
    if isinstance(targets, tuple):
        targets = targets[0]
    assert torch.equal(targets, LABELS)


def test_masks_in_bytes_stay_what_they_are():
    for batch in (
        (RGB, MASKS),
        (RGB, MASKS, LABELS),
        {"image": RGB, "mask": MASKS},
        {"image": RGB, "parts": MASKS},
        {"image": RGB, "labels": {"of pixels": MASKS}},
    ):
        data = from_loaders([batch], [batch], task="segmentation")
        inputs, targets = split_batch(next(iter(data.train)), One())
        assert inputs.max() == 1
        found = [leaf for leaf in torch.utils._pytree.tree_leaves(targets) if leaf is not LABELS]
        assert [(leaf.dtype, int(leaf.max())) for leaf in found if leaf.dim() == 4] == [(torch.uint8, 2)]


@pytest.mark.parametrize("batch", [(RGB, RGB), (RGB.float() / 255, RGB), {"image": RGB, "target": RGB}])
@pytest.mark.parametrize("how", ["name", "mapping", "task", "later"])
def test_what_a_restoration_aims_at_is_an_image(batch, how):
    task = {"mapping": {"name": "restoration"}, "task": ps.tasks.task_of("restoration")}.get(
        how, "restoration"
    )
    data = from_loaders([batch], [batch], task="regression" if how == "later" else task)
    data = data.for_task(task)
    inputs, targets = split_batch(next(iter(data.train)), nn.Identity())
    assert inputs.max() == targets.max() == 1
    assert ps.evaluate(nn.Identity(), data.val) == pytest.approx(100)


def test_a_restoration_that_only_the_call_names_aims_at_images_too():
    batches = [(RGB, RGB)]
    data = from_loaders(batches, batches)
    assert ps.evaluate(nn.Identity(), data.val, task="restoration") == pytest.approx(100)
    net = nn.Conv2d(3, 3, 1)
    history = ps.train(net, data, task="restoration", epochs=1, lr=1e-3, progress=False)
    assert 0 < history[0]["train_loss"] < 2  # not 255
