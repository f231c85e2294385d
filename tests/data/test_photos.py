import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import pintsize as ps
from pintsize import data
from pintsize.data import neighbours, photos
from pintsize.errors import CorruptFile, DataNotFound, InputError, InputTypeError, OperationError
from pintsize.recipe.inputs import DataSection
from pintsize.storage.preprocessing import Preprocessing


def picture(path, values, size=(12, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    image.resize(size[::-1], Image.Resampling.NEAREST).save(path)


@pytest.fixture
def folder(tmp_path):
    """Forty pictures of four colours each, in two folders, beside what is none."""
    chance = np.random.default_rng(0)
    for number in range(40):
        picture(tmp_path / "photos" / f"{number % 2}" / f"p{number}.png", chance.integers(0, 256, (2, 2, 3)))
    (tmp_path / "photos" / "notes.txt").write_text("labels are elsewhere")
    (tmp_path / "photos" / ".hidden.png").write_bytes(b"")
    return tmp_path / "photos"


def test_batches_are_inputs_alone_and_parts_are_apart(folder):
    images = data.images(folder)
    assert images.task == "imitation"
    assert [len(part) for part in (images.train, images.val, images.test)] == [29, 3, 8]
    batch = next(iter(images.train.batches(4)))
    assert batch.shape == (4, 3, 12, 16)
    assert float(batch.min()) >= 0
    assert float(batch.max()) <= 1
    positions = [set(part.positions.tolist()) for part in (images.train, images.val, images.test)]
    assert set.union(*positions) == set(range(40))
    assert sum(map(len, positions)) == 40
    other = data.images(folder, seed=1)
    assert torch.equal(other.test.positions, images.test.positions)
    assert not torch.equal(other.val.positions, images.val.positions)
    assert len(data.images(folder, limit=5).train) == 5


def test_pixels_are_scaled_and_normalised_in_the_order_that_is_asked(tmp_path):
    colour = np.zeros((1, 1, 3), np.uint8) + np.array([10, 100, 200], np.uint8)
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        picture(file, colour, (4, 4))

    def seen(**options):
        return next(iter(data.images(files, **options).train.batches(1)))[0, :, 0, 0].tolist()

    assert seen() == pytest.approx([10 / 255, 100 / 255, 200 / 255])
    assert seen(scale=1) == pytest.approx([10, 100, 200])
    assert seen(channels="bgr", scale=1, mean=(104, 117, 123), std=(1, 1, 2)) == pytest.approx(
        [96, -17, -56.5]
    )
    assert seen(mean=(0.5,) * 3, std=(0.25,) * 3) == pytest.approx(
        [(v / 255 - 0.5) / 0.25 for v in (10, 100, 200)]
    )
    assert seen(channels="grey") == pytest.approx([(0.299 * 10 + 0.587 * 100 + 0.114 * 200) / 255], abs=0.004)
    shown = data.images(files, channels="bgr", mean=(0.1, 0.2, 0.3), std=(2, 3, 4)).val.pictures(1)
    assert shown[0, :, 0, 0].tolist() == pytest.approx([10 / 255, 100 / 255, 200 / 255], abs=1e-6)


def test_a_size_is_reached_whole_stretched_or_cut(tmp_path):
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 255
    for number in range(3):
        picture(tmp_path / f"{number}.png", wide, (4, 8))

    def seen(**options):
        return next(iter(data.images(tmp_path, size=4, interpolation="nearest", **options).train.batches(1)))[
            0, 0
        ]

    border = 114 / 255
    assert seen()[0].tolist() == pytest.approx([border] * 4)
    assert seen(resize="letterbox")[1].tolist() == [0, 1, 1, 0]
    assert seen(resize="stretch")[0].tolist() == [0, 1, 1, 0]
    assert seen(resize="crop").min() == 1
    assert seen(crop=0.5).min() == 1


def test_what_weights_expect_stands_in(folder):
    like = Preprocessing((8, 10), (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), crop=0.8, interpolation="bicubic")
    images = data.images(folder, like=like)
    assert images.image_shape == (3, 8, 10)
    assert (images.mean, images.std) == (like.mean, like.std)
    assert data.images(folder, like=like, channels="bgr").mean == like.mean[::-1]
    assert data.images(folder, like=like, channels="grey").mean == pytest.approx((0.4,))
    assert data.images(folder, like=like, size=6, mean=(0, 0, 0)).mean == (0, 0, 0)
    with pytest.raises(InputError, match="nobody has noted"):
        data.images(folder, like=torch.nn.Linear(1, 1))
    with pytest.raises(InputTypeError, match="it is no network"):
        data.images(folder, like="resnet18")


def test_class_folders_take_what_weights_expect_too(tmp_path):
    for kind in ("a", "b"):
        for number in range(12):
            picture(tmp_path / kind / f"{number}.png", np.full((2, 2, 3), number * 10))
    like = Preprocessing((8, 10), (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), crop=0.8, interpolation="bicubic")
    images = data.load(f"imagefolder:{tmp_path}", like=like)
    assert images.image_shape == (3, 8, 10)
    assert (images.mean, images.std) == (like.mean, like.std)


def test_streamed_pictures_are_those_in_memory(folder, monkeypatch):
    held = data.images(folder, size=(6, 9), channels="bgr")
    monkeypatch.setattr(photos, "MEMORY_LIMIT", 0)
    streamed = data.images(folder, size=(6, 9), channels="bgr")
    streamed.train.store.workers = 0
    assert type(streamed.train.store) is not type(held.train.store)
    for one, other in zip(held.train.batches(8), streamed.train.batches(8), strict=True):
        assert torch.equal(one, other)


def test_frames_of_a_video_are_cut_in_blocks_with_gaps(tmp_path):
    chance = np.random.default_rng(0)
    values = chance.integers(0, 256, (4, 4, 3)).astype(float)
    for number in range(200):  # a scene that changes slowly; names without leading zeros
        values = np.clip(values + chance.normal(0, 6, values.shape), 0, 255)
        picture(tmp_path / f"frame{number}.png", values.astype(np.uint8), (8, 8))
    images = data.images(tmp_path)
    part = torch.full((200,), -1)
    for number, split in enumerate((images.train, images.val, images.test)):
        part[split.positions] = number
    assert (part >= 0).sum() < 200  # the gaps
    for distance in (1, 2):
        one, other = part[:-distance], part[distance:]
        assert not ((one != other) & (one >= 0) & (other >= 0)).any()
    assert len(data.images(tmp_path, frames=False).train) == 144


def test_photos_are_not_taken_for_frames(folder):
    files = sorted(str(file) for file in folder.rglob("p*.png"))
    assert not neighbours.are_frames(files)
    assert not neighbours.are_frames(files[:1] * 30)


def test_numbers_in_names_count_by_their_value():
    files = ["f10.png", "f9.png", "f2.png"]
    assert sorted(files, key=photos._natural) == ["f2.png", "f9.png", "f10.png"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size": 0}, "not a side"),
        ({"size": (-3, 4)}, "not a side"),
        ({"size": 3}, "at least 4"),
        ({"resize": "squeeze"}, "resize 'squeeze'"),
        ({"channels": "hsv"}, "channels 'hsv'"),
        ({"interpolation": "magic"}, "interpolation 'magic'"),
        ({"scale": 0}, "scale=0"),
        ({"scale": True}, "scale=True"),
        ({"mean": (0.5,)}, "3 numbers"),
        ({"std": (1, 0, 1)}, "3 positive numbers"),
        ({"crop": 2}, "crop=2"),
        ({"crop": 0.5, "resize": "stretch"}, "nothing is cropped"),
        ({"val_fraction": 1}, "val_fraction"),
        ({"cutout": 12}, "erase"),
    ],
)
def test_options_that_make_no_sense(folder, options, told):
    with pytest.raises(InputError, match=told):
        data.images(folder, **options)


def test_sources_that_are_none(tmp_path, folder):
    with pytest.raises(DataNotFound, match="no such folder"):
        data.images(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no pictures in it"):
        data.images(tmp_path / "empty")
    (tmp_path / "clip.mp4").write_bytes(b"x")
    with pytest.raises(InputError, match="ffmpeg"):
        data.images(tmp_path / "clip.mp4")
    with pytest.raises(InputError, match="list is empty"):
        data.images([])
    with pytest.raises(DataNotFound, match=r"absent\.png.*no such picture"):
        data.images([tmp_path / "absent.png"])
    with pytest.raises(InputTypeError, match="no folder and no list"):
        data.images(torch.rand(2, 3, 4, 4))
    with pytest.raises(InputError, match="names no folder"):
        data.load("images:")
    with pytest.raises(InputError, match=r"digits.*scale or channels"):
        data.load("digits", channels="grey")


def test_a_broken_picture_is_named(folder):
    (folder / "0" / "p8.png").write_bytes((folder / "0" / "p8.png").read_bytes()[:40])
    with pytest.raises(CorruptFile, match=r"p8\.png.*remove it or replace it"):
        data.images(folder, size=8)


def test_several_sizes_need_one(folder):
    picture(folder / "other.png", np.zeros((2, 2, 3)), (20, 20))
    with pytest.raises(InputError, match=r"2 sizes.*size="):
        data.images(folder)


def test_two_pictures_are_enough_and_one_is_not(tmp_path):
    for number in range(2):
        picture(tmp_path / f"{number}.png", np.full((2, 2, 3), 100 * number))
    images = data.images(tmp_path)
    assert [len(part) for part in (images.train, images.val, images.test)] == [1, 1, 1]
    assert images.train.positions != images.val.positions
    assert torch.equal(images.test.positions, images.val.positions)
    with pytest.raises(InputError, match="there is one"):
        data.images([tmp_path / "0.png"])


def test_pictures_of_one_colour_are_read(tmp_path):
    for number in range(6):
        picture(tmp_path / f"{number}.png", np.full((2, 2, 3), 128))
    images = data.images(tmp_path)
    assert next(iter(images.train)).unique().numel() == 1
    with pytest.raises(InputError, match=r"constant.*on all calibration images"):
        ps.quantize(_net(), calibration=images.train, progress=False)


def _net(channels=3):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(channels, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 6),
    ).eval()  # fmt: skip


def test_a_network_of_other_channels_is_told(folder):
    images = data.images(folder)
    with pytest.raises(OperationError, match="3 channels of 12×16 pixels"):
        ps.train(_net(1), images, teacher=_net(1), epochs=1, progress=False)


def test_a_recipe_says_it_in_a_section(folder):
    section = DataSection(
        name=f"images:{folder}",
        size=[8, 10],
        resize="stretch",
        mean=(0, 0, 0),
        std=(1, 1, 1),
        scale=1,
        channels="bgr",
    )
    loaded = data.load(**section.model_dump())
    assert loaded.image_shape == (3, 8, 10)
    assert section.image_size == "8x10"


def test_the_command_line_takes_them(folder, tmp_path):
    torch.manual_seed(0)
    ps.save(ps.models.create("resnet-demo"), tmp_path / "net.safetensors")
    out = tmp_path / "int8.safetensors"
    options = f"-d images:{folder} --image-size 12x16 --resize stretch --mean 0.5,0.5,0.5 --std 0.2,0.2,0.2 --channels bgr"
    verb = [
        "-c",
        "from pintsize.cli import main; main()",
        "quantize",
        "-m",
        str(tmp_path / "net.safetensors"),
    ]
    command = [sys.executable, *verb, *options.split(), "--calibration-images", "16", "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert out.is_file()
