import numpy as np
import pytest
import torch

from pintsize.data.transform import Transform, statistics

PLAIN = {"mean": (0.0,), "std": (1.0,), "peak": 1}


def word(down: int = 0, right: int = 0, *, pad: int = 1, flip: bool = False) -> np.ndarray:
    """The random word that asks for this crop and flip; (pad, pad) is the crop that moves nothing."""
    offsets = 2 * pad + 1
    value = down + offsets * right
    if flip:  # the top bit; adjusted so that the remainders stay as they are
        value += (1 << 63) + (-(1 << 63)) % (offsets * offsets)
    return np.array([value], np.uint64)


def image(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.uint8).view(1, len(rows), len(rows[0]), 1)


def test_normalises_per_channel():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    batch = Transform((0.5, 0.1, 0.0), (0.25, 0.2, 0.5))(pixels)
    assert batch.shape == (1, 3, 1, 1)
    torch.testing.assert_close(batch.flatten(), torch.tensor([-2.0, 0.5, 2.0]))


def test_peak_is_what_stands_for_one():
    assert Transform((0.0,), (1.0,), peak=16)(image([0, 4, 16])).flatten().tolist() == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_values_and_memory_format(channels):
    pixels = torch.randint(0, 256, (2, 5, 4, channels), dtype=torch.uint8)
    mean, std = (0.3,) * channels, (0.7,) * channels
    batch = Transform(mean, std)(pixels)
    torch.testing.assert_close(batch, (pixels.permute(0, 3, 1, 2) / 255 - 0.3) / 0.7)
    expected = torch.channels_last if channels >= 3 else torch.contiguous_format
    assert batch.stride() == torch.empty(batch.shape).to(memory_format=expected).stride()


def test_crop_moves_the_image_over_a_black_border():
    crop = Transform(**PLAIN, pad=1)
    pixels = image([1, 2], [3, 4])
    assert crop(pixels, word(1, 1)).squeeze().tolist() == [[1, 2], [3, 4]]
    assert crop(pixels, word(0, 0)).squeeze().tolist() == [[0, 0], [0, 1]]
    assert crop(pixels, word(2, 1)).squeeze().tolist() == [[3, 4], [0, 0]]
    assert crop(pixels, word(1, 2)).squeeze().tolist() == [[2, 0], [4, 0]]


@pytest.mark.parametrize(("side", "rows", "columns"), [(1, [2], [1]), (2, [1, 2], [0, 1]), (3, [1, 2, 3], [0, 1, 2]),
                                                       (5, [0, 1, 2, 3], [0, 1, 2, 3])])  # fmt: skip
def test_cutout_erases_a_square_around_a_random_pixel(side, rows, columns):
    pixels = torch.ones((1, 4, 6, 3), dtype=torch.uint8)
    word = np.array([(2 + 4 * 1) << 32], np.uint64)  # row 2, column 1
    cut = Transform((0.5,) * 3, (1.0,) * 3, peak=1, cutout=side)
    erased = torch.zeros(4, 6, dtype=torch.bool)
    erased[np.ix_(rows, columns)] = True
    for channel in cut(pixels, word)[0]:
        assert channel.tolist() == torch.where(erased, 0.0, 0.5).tolist()
    assert (cut(pixels) == 0.5).all()  # nothing is erased where nothing is augmented
    assert cut(pixels, word).is_contiguous(memory_format=torch.channels_last)


def test_every_pixel_is_erased_as_often_but_near_the_border():
    words = np.random.default_rng(0).integers(0, 2**64, 40000, np.uint64)
    erased = (
        Transform((0.5,), (1.0,), peak=1, cutout=3)(torch.ones((40000, 8, 8, 1), dtype=torch.uint8), words)
        == 0
    )
    inner = erased.float().mean(0)[0, 1:-1, 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, 9 / 64), atol=0.01, rtol=0)


def test_flip_mirrors_columns_only():
    flip = Transform(**PLAIN, pad=1, flip=True)
    pixels = image([1, 2], [3, 4])
    assert flip(pixels, word(1, 1, flip=True)).squeeze().tolist() == [[2, 1], [4, 3]]
    assert flip(pixels, word(1, 1)).squeeze().tolist() == [[1, 2], [3, 4]]
    assert pixels.squeeze().tolist() == [[1, 2], [3, 4]]  # the stored pixels are as before


def test_every_crop_and_flip_comes_up_evenly():
    # One pixel lit, column 2 of 6: the three crops move it to 1, 2 or 3, the flip from there to 4, 3 or 2.
    words = np.random.default_rng(0).integers(0, 2**64, 6000, dtype=np.uint64)
    pixels = image([0, 0, 9, 0, 0, 0]).expand(6000, -1, -1, -1)
    batch = Transform(**PLAIN, pad=1, flip=True)(pixels, words).view(6000, 6)
    lit = batch[batch.sum(1) > 0]  # a third of the crops up and a third down miss the only row
    assert abs(len(lit) - 2000) < 150
    counts = torch.bincount(lit.argmax(1), minlength=6)
    assert (counts - torch.tensor([0, 333, 667, 667, 333, 0])).abs().max() < 90
    assert counts[0] == counts[5] == 0


def test_each_image_of_a_batch_has_its_own_crop():
    pixels = torch.cat([image([1, 2, 3])] * 3)
    batch = Transform(**PLAIN, pad=1)(pixels, np.concatenate([word(1, 0), word(1, 1), word(1, 2)]))
    assert batch.view(3, 3).tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 0]]


def test_resize_keeps_a_flat_image_flat():
    for size in ((4, 4), (9, 9), (16, 16)):
        batch = Transform((0.5,) * 3, (0.5,) * 3, size=size)(torch.full((2, 8, 8, 3), 255, dtype=torch.uint8))
        assert batch.shape == (2, 3, *size)
        assert batch.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(batch, torch.ones_like(batch))


def test_resize_halves_by_averaging():
    batch = Transform(**PLAIN, size=(1, 1))(image([0, 4], [8, 4]))
    assert batch.item() == 4.0


def test_statistics_of_known_pixels():
    pixels = torch.tensor([[0, 10], [4, 10], [8, 10], [16, 10]], dtype=torch.uint8).view(4, 1, 1, 2)
    mean, std = statistics(pixels, peak=16)
    assert mean == pytest.approx((7 / 16, 10 / 16))
    assert std == pytest.approx((35**0.5 / 16, 0.0))  # squares: 49, 9, 1, 81, mean 35


def test_statistics_normalise():
    pixels = torch.randint(0, 200, (50, 6, 6, 3), dtype=torch.uint8)
    batch = Transform(*statistics(pixels, peak=255))(pixels)
    torch.testing.assert_close(batch.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(batch.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
