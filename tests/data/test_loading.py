import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from pintsize import data
from pintsize.errors import InputError, InputTypeError


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    loaded = data.load("digits")
    assert loaded.name == "digits"
    assert loaded.classes == tuple("0123456789")
    assert loaded.image_shape == (1, 8, 8) == loaded.train.image_shape
    assert [len(split) for split in (loaded.train, loaded.val, loaded.test)] == [1293, 144, 360]
    seen = {}
    for split in (loaded.train, loaded.val, loaded.test):
        for images, labels in split:
            for image, label in zip(images, labels, strict=True):
                seen[
                    tuple((image * loaded.std[0] + loaded.mean[0]).mul(16).round().int().flatten().tolist())
                ] = int(label)
    digits = load_digits()
    assert seen == {
        tuple(image.flatten().astype(int).tolist()): int(label)
        for image, label in zip(digits.images, digits.target, strict=True)
    }


def test_digits_are_normalised_by_their_training_part():
    loaded = data.load("digits")
    images = torch.cat([images for split in (loaded.train, loaded.val) for images, _ in split])
    assert abs(float(images.mean())) < 1e-5
    assert float(images.std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_digits_are_stratified():
    loaded = data.load("digits", val_fraction=0.2)
    for split, per_class in ((loaded.test, 36), (loaded.val, 28.7)):
        assert (torch.bincount(split.labels) - per_class).abs().max() <= 1


def test_digits_are_never_flipped():
    loaded = data.load("digits")
    flipped = data.load("digits", flip=True)
    assert not loaded.train.transform.flip
    assert flipped.train.transform.flip
    for split, expected in ((loaded.train, 0), (flipped.train, 0.5)):
        ((plain, _),) = split.batches(2000)
        ((augmented, _),) = split.batches(2000, augment=True)
        mirrored = sum(
            any(
                torch.equal(new[0, 1:-1, 1:-1], old.flip(2)[0, i : i + 6, j : j + 6])
                for i in range(3)
                for j in range(3)
            )
            for new, old in zip(augmented, plain, strict=True)
        )
        assert mirrored / len(plain) == pytest.approx(expected, abs=0.05)


def test_seed_moves_validation_only():
    def test_pixels(loaded):
        return torch.cat([images for images, _ in loaded.test])

    one, two = data.load("digits", seed=1), data.load("digits", seed=2)
    assert torch.equal(test_pixels(one), test_pixels(two))
    assert not torch.equal(one.val._positions, two.val._positions)
    assert torch.equal(one.val._positions, data.load("digits", seed=1).val._positions)
    assert set(one.val._positions.tolist()) | set(one.train._positions.tolist()) == set(range(1437))


def test_limit_cuts_every_split():
    loaded = data.load("digits", limit=200)
    assert [len(split) for split in (loaded.train, loaded.val, loaded.test)] == [200, 144, 200]
    assert torch.bincount(loaded.train.labels).min() >= 19
    whole = data.load("digits")
    assert set(loaded.train._positions.tolist()) < set(whole.train._positions.tolist())


def test_image_size_resizes():
    loaded = data.load("digits", image_size=12)
    images, _ = next(loaded.train.batches(4, augment=True))
    assert images.shape == (4, 1, 12, 12) == (4, *loaded.image_shape)


def test_cutout_erases_in_training_alone():
    loaded = data.load("digits", cutout=3)
    (augmented, _), (plain, _) = (
        next(loaded.train.batches(64, augment=True)),
        next(loaded.train.batches(64)),
    )
    assert ((augmented == 0).sum((1, 2, 3)) >= 4).all()  # a corner of the square, at least
    assert torch.equal(plain, next(data.load("digits").train.batches(64))[0])
    with pytest.raises(InputError, match=r"cutout=8.*half of their side"):
        data.load("digits", cutout=8)
    with pytest.raises(InputError, match=r"cutout=-1"):
        data.load("digits", cutout=-1)


def test_unknown_names_get_the_nearest(folders):
    with pytest.raises(InputError, match=r"data set 'fashionmnist'.*did you mean 'fashion-mnist'"):
        data.load("fashionmnist")
    with pytest.raises(InputError, match=r"choose one of: .*imagefolder:PATH"):
        data.load("zzz")
    with pytest.raises(InputError, match=f"write imagefolder:{folders}"):
        data.load(str(folders))
    with pytest.raises(InputTypeError):
        data.load(None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({"val_fraction": value}, f"val_fraction={value!r}: it is not a number between 0 and 1")
            for value in (0, 1, 1.5, -0.1, math.nan, "x", True)
        ),
        ({"val_fraction": 0.0001}, "no image is left for its val split"),
        ({"val_fraction": 0.9999}, "no image of class '0' is left for its train split"),
        *(
            ({"image_size": value}, f"image_size={value!r}")
            for value in (0, -8, 3, 2.5, "32 pixels", "32x", (32, 32, 3), 100_000, True)
        ),
        ({"image_size": (32, 2)}, "image_size=2"),
        ({"limit": 0}, "limit=0"),
        ({"limit": 9}, "limit=9: it is fewer than the 10 classes"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"mean": (0.5, 0.5)}, "it is not 1 numbers"),
        ({"mean": 0.5}, "it is not 1 numbers"),
        ({"mean": ["x"]}, "it is not 1 numbers"),
        ({"std": (0.0,)}, "it is not 1 positive numbers"),
        ({"std": (math.inf,)}, "it is not 1 positive numbers"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(InputError) as caught:
        data.load("digits", **options)
    assert message in str(caught.value)


def test_numpy_numbers_are_taken():
    loaded = data.load("digits", seed=np.int64(1), val_fraction=np.float32(0.5), mean=np.array([0.5]))
    assert loaded.mean == (0.5,)


def test_the_names():
    assert data.list() == [
        "cifar10", "cifar100", "digits", "digits-scenes", "digits-scenes:masks", "fashion-mnist",
    ]  # fmt: skip


def test_describe_tells_what_is_here(folders):
    entries = {entry.name: entry for entry in data.describe()}
    formats = ["imagefolder:PATH", "coco:PATH", "yolo:data.yaml", "masks:PATH", "csv:FILE", "images:PATH"]
    assert list(entries) == [*data.list(), *formats]
    assert entries["digits"].found
    assert not entries["cifar10"].found
    assert (
        f"put cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html into {folders}/data"
        in entries["cifar10"].where
    )
    archive = folders / "data" / "cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    archive.touch()
    entries = {entry.name: entry for entry in data.describe()}
    assert (entries["cifar10"].found, entries["cifar10"].where) == (True, str(archive))


def test_importing_is_light():
    heavy = ("sklearn", "PIL.JpegImagePlugin", "datasets", "torchvision", "safetensors.torch")
    code = f"import sys, pintsize.data; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
