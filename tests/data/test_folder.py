import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pintsize import data
from pintsize.data import folder, loading
from pintsize.errors import CorruptFile, DataNotFound, InputError


def reds(split) -> list[int]:
    """The red value of each image: 10 × the number of its class."""
    images = torch.cat([images for images, _ in split.batches()])
    return (images[:, 0, 0, 0] * 0.229 + 0.485).mul(255).round().int().tolist()


def test_class_folders_get_a_test_split(tmp_path, make_folder):
    root = make_folder(tmp_path / "set", {"cat": 20, "ant": 10, "bee": 30})
    loaded = data.load(f"imagefolder:{root}", val_fraction=0.25)
    assert loaded.classes == ("ant", "bee", "cat")
    assert loaded.image_shape == (3, 8, 8)
    for split, counts in ((loaded.train, [6, 18, 12]), (loaded.val, [2, 6, 4]), (loaded.test, [2, 6, 4])):
        assert torch.bincount(split.labels).tolist() == counts
        # cat, ant, bee were painted 0, 10, 20
        assert reds(split) == [[10, 20, 0][label] for label in split.labels.tolist()]


def pixels(split) -> set[tuple[float, ...]]:
    return {tuple(image[:, 0, 0].tolist()) for images, _ in split.batches() for image in images}


def test_splits_do_not_overlap_and_test_is_the_same_for_every_seed(tmp_path, make_folder):
    root = make_folder(tmp_path / "set", {"ant": 40, "bee": 40})
    first, again, other = (data.load(f"imagefolder:{root}", seed=seed) for seed in (0, 0, 1))
    parts = [pixels(split) for split in (first.train, first.val, first.test)]
    assert [len(part) for part in parts] == [58, 6, 16]
    assert len(set.union(*parts)) == 80
    assert pixels(again.val) == parts[1] != pixels(other.val)
    assert pixels(other.test) == parts[2]


def test_train_and_test_apart(tmp_path, make_folder):
    root = make_folder(tmp_path / "set", {"train/ant": 10, "train/bee": 10, "test/ant": 3, "test/bee": 4})
    loaded = data.load(f"imagefolder:{root}")
    assert [len(split) for split in (loaded.train, loaded.val, loaded.test)] == [18, 2, 7]
    assert loaded.test.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_a_val_folder_is_the_validation_split(tmp_path, make_folder):
    counts = {f"{part}/{name}": 5 for part in ("train", "test", "val") for name in ("ant", "bee")}
    loaded = data.load(f"imagefolder:{make_folder(tmp_path / 'set', counts)}", val_fraction=0.5)
    assert [len(split) for split in (loaded.train, loaded.val, loaded.test)] == [10, 10, 10]


def test_images_that_differ_in_size_become_224(tmp_path, make_folder):
    root = make_folder(tmp_path / "set", {"ant": 5, "bee": 5})
    Image.new("RGB", (30, 20)).save(root / "ant" / "wide.jpg")
    assert data.load(f"imagefolder:{root}").image_shape == (3, 224, 224)
    assert data.load(f"imagefolder:{root}", image_size=16).image_shape == (3, 16, 16)


def test_a_common_size_need_not_be_square(tmp_path, make_folder):
    root = make_folder(tmp_path / "set", {"ant": 5, "bee": 5}, size=(6, 9))
    loaded = data.load(f"imagefolder:{root}")
    images, _ = next(loaded.train.batches(augment=True))
    assert images.shape[1:] == loaded.image_shape == (3, 6, 9)


def test_statistics_are_imagenets_unless_given(tmp_path, make_folder):
    root = make_folder(tmp_path / "set", {"ant": 5, "bee": 5})
    assert data.load(f"imagefolder:{root}").mean == (0.485, 0.456, 0.406)
    loaded = data.load(f"imagefolder:{root}", mean=[0, 0, 0], std=(1, 1, 0.5))
    images, _ = next(loaded.test.batches())
    torch.testing.assert_close(images[:, 2], torch.full_like(images[:, 2], 2 * 200 / 255))
    assert (loaded.mean, loaded.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 0.5))


def test_the_second_start_decodes_nothing(tmp_path, make_folder, monkeypatch):
    root = make_folder(tmp_path / "set", {"ant": 10, "bee": 10})
    first = reds(data.load(f"imagefolder:{root}").train)
    with monkeypatch.context() as patch:
        patch.setattr(folder.pictures, "rgb", None)
        patch.setattr(folder.pictures, "size_of", None)
        assert reds(data.load(f"imagefolder:{root}").train) == first
    Image.new("RGB", (8, 8), (90, 0, 0)).save(root / "ant" / "000.png")  # one picture is replaced
    loaded = data.load(f"imagefolder:{root}")
    assert 90 in {*reds(loaded.train), *reds(loaded.val), *reds(loaded.test)}


def test_a_cache_that_is_damaged_is_made_anew(tmp_path, make_folder):
    root = make_folder(tmp_path / "set", {"ant": 10, "bee": 10})
    first = reds(data.load(f"imagefolder:{root}").train)
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    assert reds(data.load(f"imagefolder:{root}").train) == first
    assert folder.cache.recall("imagefolder", f"{root} at None", folder.scan(root).fingerprint) is not None


def test_hidden_files_are_passed_over(tmp_path, make_folder):
    root = make_folder(tmp_path / "set", {"ant": 5, "bee": 5, ".trash": 5})
    (root / "ant" / ".DS_Store").write_text("x")
    assert sum(len(part.files) for part in folder.scan(root).parts.values()) == 10


def test_many_pictures_are_decoded_in_their_order(tmp_path, monkeypatch):
    root = tmp_path / "set"
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True)
        for index in range(20):
            Image.new("RGB", (70, 70), (index, 0, 0)).save(root / name / f"{index:02}.png")
    monkeypatch.setattr(folder, "_PER_TASK", 3)
    images = folder.decode(folder.scan(root), (70, 70)).parts["train"].images
    assert images[:, 0, 0, 0].tolist() == [*range(20), *range(20)]


def break_empty(root: Path) -> None:
    (root / "cow").mkdir()


def break_text(root: Path) -> None:
    (root / "ant" / "notes.txt").write_text("x")


def break_nested(root: Path) -> None:
    (root / "ant" / "more").mkdir()


def break_picture(root: Path) -> None:
    (root / "bee" / "002.png").write_bytes(b"no picture")


def break_part(root: Path) -> None:
    (root / "train").mkdir()


def break_link(root: Path) -> None:
    os.symlink(root / "nowhere.png", root / "ant" / "link.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (break_empty, "class folder .*cow: it has no pictures"),
        (break_text, "ant/notes.txt: it is not named as a picture"),
        (break_nested, "ant/more: it is a folder within a class folder"),
        (break_picture, "bee/002.png: it cannot be read as a picture"),
        (break_part, "it has train, but not both train and test"),
        (break_link, "ant/link.png: it cannot be read"),
    ],
)
def test_a_flawed_folder_is_refused(tmp_path, make_folder, spoil, message):
    root = make_folder(tmp_path / "set", {"ant": 5, "bee": 5})
    spoil(root)
    with pytest.raises(InputError, match=message):
        data.load(f"imagefolder:{root}")
    assert not (tmp_path / "cache").exists()


def test_parts_must_have_the_same_classes(tmp_path, make_folder):
    root = make_folder(tmp_path / "set", {"train/ant": 5, "train/bee": 5, "test/ant": 5, "test/bug": 5})
    with pytest.raises(InputError, match="class 'bee' is not in every one"):
        data.load(f"imagefolder:{root}")


def test_one_class_or_none_is_refused(tmp_path, make_folder):
    make_folder(tmp_path / "one", {"ant": 5})
    (tmp_path / "none").mkdir()
    for name, count in (("one", 1), ("none", 0)):
        with pytest.raises(InputError, match=f"it has {count} class folders"):
            data.load(f"imagefolder:{tmp_path / name}")


def test_too_few_images_are_refused(tmp_path, make_folder):
    root = make_folder(tmp_path / "set", {"ant": 1, "bee": 1, "cat": 1})
    with pytest.raises(InputError, match="no image is left for its val split"):
        data.load(f"imagefolder:{root}")
    with pytest.raises(InputError, match=r"no image of class '.*' is left for its train split"):
        data.load(f"imagefolder:{root}", val_fraction=0.5)


def test_no_folder_is_refused():
    with pytest.raises(DataNotFound, match="image folder /nowhere: there is no such folder"):
        data.load("imagefolder:/nowhere")
    with pytest.raises(InputError, match="it names no folder"):
        data.load("imagefolder:")


def stream(root: Path, monkeypatch, **options):
    monkeypatch.setattr(loading, "MEMORY_LIMIT", 0)
    return data.load(f"imagefolder:{root}", **options)


@pytest.fixture
def photographs(tmp_path) -> Path:
    chance = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(12):
            size = (30 + index, 40, 3)
            Image.fromarray(chance.integers(0, 256, size, dtype=np.uint8)).save(
                tmp_path / f"photos/{name}/{index:02}.png"
            )
    return tmp_path / "photos"


def test_a_streamed_folder_has_the_same_splits(tmp_path, make_folder, monkeypatch):
    root = make_folder(tmp_path / "set", {"ant": 20, "bee": 20})
    memory, streamed = data.load(f"imagefolder:{root}"), stream(root, monkeypatch)
    # Still from the cache: what was small enough once is.
    assert type(streamed.train._store) is type(memory.train._store)
    (tmp_path / "cache").rename(tmp_path / "old")
    streamed = stream(root, monkeypatch)
    assert type(streamed.train._store) is not type(memory.train._store)
    for part in ("train", "val", "test"):
        one, two = getattr(memory, part), getattr(streamed, part)
        assert torch.equal(one.labels, two.labels)
        for (a, a_labels), (b, b_labels) in zip(one.batches(7), two.batches(7), strict=True):
            assert torch.equal(a, b)  # flat pictures of the size asked for: no view of them differs
            assert torch.equal(a_labels, b_labels)
    assert not (tmp_path / "cache").exists()


def test_streamed_crops_are_determined(photographs, monkeypatch):
    loaded = stream(photographs, monkeypatch, image_size=16)

    def epoch(number: int, *, workers: int, batch_size: int = 5) -> torch.Tensor:
        loaded.train._store.workers = workers
        batches = loaded.train.batches(batch_size, shuffle=True, augment=True, seed=1, epoch=number)
        return torch.cat([images for images, _ in batches])

    state = torch.get_rng_state()
    first = epoch(0, workers=0)
    assert first.shape == (len(loaded.train), 3, 16, 16)
    assert torch.equal(first, epoch(0, workers=2))
    assert torch.equal(first, epoch(0, workers=0, batch_size=3))
    assert not torch.equal(first, epoch(1, workers=0))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_streamed_picture_that_is_damaged_is_named(photographs, monkeypatch, workers):
    loaded = stream(photographs, monkeypatch, image_size=16)
    loaded.train._store.workers = workers
    for path in photographs.glob("*/*.png"):
        path.write_bytes(b"damaged later")
    with pytest.raises(CorruptFile, match=r"photos/.*\.png: it cannot be read as a picture"):
        next(loaded.train.batches(4))
