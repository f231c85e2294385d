"""Folders of pictures and masks."""

import numpy as np
import pytest
import torch
from PIL import Image

from pintsize import data, evaluate, train
from pintsize.data import loading
from pintsize.errors import CorruptFile, DataNotFound, InputError
from pintsize.tasks import task_of


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("form", ["L", "P"])
def test_masks_are_where_the_pictures_show_them(write, tmp_path, monkeypatch, streamed, form):
    if streamed:
        monkeypatch.setattr(loading, "MEMORY_LIMIT", 0)
        monkeypatch.setattr("pintsize.data.stream._WORKERS", 0)
    loaded = data.load(
        f"masks:{write.masks(tmp_path / 'set', form=form)}",
        image_size=(96, 128),
        val_fraction=0.2,
        **write.PLAIN,
    )
    assert loaded.task == {"name": "segmentation", "ignore_index": 255}
    assert loaded.classes == ("0", "1", "2")
    for split in (loaded.train, loaded.val, loaded.test):
        for augment in (False, True):
            for image, mask in write.all_of(split, augment=augment):
                assert mask.shape == image.shape[1:] == (96, 128)
                assert mask.dtype == torch.int64
                assert set(mask.unique().tolist()) <= {0, 1, 2, 255}
                shown, said = image[0] > 0.9, (mask == 1) | (mask == 2)
                assert (shown != said).float().mean() < 0.02  # JPEG, and the border of what was enlarged


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("ignored", [0, 2, 254, -100])
def test_what_does_not_count_in_masks_is_called_as_the_task_calls_it(
    write, tmp_path, monkeypatch, streamed, ignored
):
    if streamed:
        monkeypatch.setattr(loading, "MEMORY_LIMIT", 0)
        monkeypatch.setattr("pintsize.data.stream._WORKERS", 0)
    loaded = data.load(f"masks:{write.masks(tmp_path / 'set')}", image_size=(96, 128), **write.PLAIN)
    told = {"name": "segmentation", "ignore_index": ignored}
    for given in (told, task_of(told)):
        for augment in (False, True):
            before, after = (
                write.all_of(split, augment=augment) for split in (loaded.train, loaded.for_task(given).train)
            )
            for (_, mask), (_, same) in zip(before, after, strict=True):
                assert (mask == 255).any()  # the border
                assert torch.equal(same, mask.masked_fill(mask == 255, ignored))
    net = torch.nn.Conv2d(3, 3, 1)
    assert train(net, loaded.for_task(told), epochs=1, progress=False)
    assert train(net, loaded, task=told, epochs=1, progress=False)
    assert evaluate(net, loaded.for_task(told).val) == evaluate(net, loaded.val, task=told)


def test_masks_in_parts_with_names(write, tmp_path):
    root = tmp_path / "set"
    for part, count in (("train", 6), ("val", 3), ("test", 2)):
        write.masks(root / part, count=count)
    (root / "classes.txt").write_text("sky\nroad\ncar\ntree\n")
    loaded = data.load(f"masks:{root}")
    assert loaded.classes == ("sky", "road", "car", "tree")
    assert [len(loaded.train), len(loaded.val), len(loaded.test)] == [6, 3, 2]
    assert loaded.image_shape == (3, 512, 512)
    (root / "classes.txt").write_text("sky\nroad\n")
    with pytest.raises(InputError, match=r"masks/1.png: it has class 2, classes.txt names 0 to 1"):
        data.load(f"masks:{root}")


def test_masks_of_another_size(write, tmp_path):
    root = write.masks(tmp_path / "set")
    Image.fromarray(np.zeros((40, 61), np.uint8)).save(root / "masks" / "0.png")
    with pytest.raises(InputError, match=r"0.png: it has 40×61 pixels, its picture 0.jpg 40×60"):
        data.load(f"masks:{root}", image_size=64)


def test_masks_that_are_lost_or_no_masks(write, tmp_path):
    root = write.masks(tmp_path / "set")
    (root / "masks" / "3.png").rename(tmp_path / "3.png")
    with pytest.raises(DataNotFound, match=r"3.jpg: it has no mask of the same name"):
        data.load(f"masks:{root}")
    Image.new("RGB", (90, 30)).save(root / "masks" / "3.png")
    with pytest.raises(InputError, match=r"3.png: as a mask it must have one number .* mode RGB"):
        data.load(f"masks:{root}")
    (root / "masks" / "3.png").write_bytes(b"none")
    with pytest.raises(CorruptFile, match=r"3.png"):
        data.load(f"masks:{root}")


@pytest.mark.parametrize("named", [False, True])
def test_masks_of_0_and_255_say_what_255_is(write, tmp_path, named):
    root = write.masks(tmp_path / "set")
    if named:  # with names alone all of it would train on background
        (root / "classes.txt").write_text("background\nthing\n")
    for file in (root / "masks").iterdir():
        Image.fromarray((np.asarray(Image.open(file)) > 0).astype(np.uint8) * 255).save(file)
    with pytest.raises(
        InputError, match="no mask has a class above 0; 255 is of pixels that do not count; write 1"
    ) as told:
        data.load(f"masks:{root}")
    assert "0 and 1 in place of 0 and 255" in str(told.value)
    for file in (root / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(file)) > 0).save(file)  # of one bit
    expected = ("background", "thing") if named else ("0", "1")
    assert data.load(f"masks:{root}", image_size=64).classes == expected


@pytest.mark.parametrize("name", ["images/0.png", "masks/0.bmp"])
def test_pictures_or_masks_of_one_name_are_not_dropped(write, tmp_path, name):
    root = write.masks(tmp_path / "set")
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(root / name)
    with pytest.raises(InputError, match=r"0\.\w+: 0\.\w+ has the same name.*remove or rename"):
        data.load(f"masks:{root}", image_size=64)


def test_names_of_classes_that_are_no_text(write, tmp_path):
    root = write.masks(tmp_path / "set")
    (root / "classes.txt").write_bytes("größe\nweg\n".encode("latin-1"))
    with pytest.raises(CorruptFile, match=r"classes.txt: it is no text in UTF-8"):
        data.load(f"masks:{root}", image_size=64)


def test_masks_that_lose_a_little_are_refused(write, tmp_path):
    root = write.masks(tmp_path / "set")
    mask = root / "masks" / "3.png"
    Image.open(mask).save(mask.with_suffix(".jpg"))
    mask.unlink()
    with pytest.raises(InputError, match=r"masks/3.jpg: it is a JPEG, .*; save masks as PNG"):
        data.load(f"masks:{root}", image_size=32)


def test_folders_without_pictures(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / "set" / name).mkdir(parents=True)
    with pytest.raises(DataNotFound, match="images/ has no pictures; add some"):
        data.load(f"masks:{tmp_path}/set")
