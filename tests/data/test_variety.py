import pytest
import torch
from torch import nn

from pintsize.data import MemoryStore, Split, Transform, varied
from pintsize.errors import InputError
from pintsize.quant.ptq.calibrate import calibration_batches


def shades(values):
    images = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 8, 8, 3).contiguous()
    return Split(
        MemoryStore(images),
        torch.zeros(len(values), dtype=torch.int64),
        ("one",),
        Transform((0.0,) * 3, (1.0,) * 3),
    )


def brightness():
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return net.train()


def chosen(split, count, seed=0):
    return [
        round(float(image.mean() * 255))
        for image in next(iter(varied(brightness(), split, count, seed).batches(99)))[0]
    ]


def test_rare_images_are_among_them_and_the_choice_is_the_seeds():
    split = shades([100] * 290 + [101, 102, 103, 0, 30, 60, 150, 190, 220, 255])
    found = chosen(split, 10)
    assert set(found) >= {0, 30, 60, 150, 190, 220, 255}
    assert chosen(split, 10) == found
    assert len(found) == 10


def test_doubles_fill_up_what_is_left():
    assert chosen(shades([5] * 20), 12) == [5] * 12


def test_all_where_there_are_no_more_and_modes_stay():
    split, net = shades(list(range(20))), brightness()
    assert varied(net, split, 20) is split
    varied(net, split, 10)
    assert net.training
    with pytest.raises(InputError):
        varied(net, split, 0)


def test_maps_and_several_outputs_count():
    class Two(nn.Module):
        def forward(self, x):
            return {"map": x.repeat(1, 40, 1, 1), "more": (x.mean((1, 2, 3)), torch.zeros(3))}

    found = varied(Two(), shades([0] * 50 + [255] + [128] * 49), 10)
    assert 50 in found.positions.tolist()


def test_quantization_takes_a_varied_sample(tmp_path):
    import numpy as np
    from PIL import Image

    from pintsize import data

    for number in range(200):
        value = 250 if number == 123 else 100
        Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(tmp_path / f"{number}.png")
    images = data.images(tmp_path, val_fraction=0.05, frames=False)
    where = {int(position) for position in images.train.positions}
    assert 123 in where
    (batch,) = calibration_batches(brightness(), images.train, 10)
    assert len(batch) == 10
    assert float(batch.max()) == pytest.approx(250 / 255)
