"""Boxes in YOLO's text files."""

import pytest
import torch

from pintsize import data
from pintsize.errors import CorruptFile, DataNotFound, InputError


@pytest.mark.parametrize(
    ("lines", "error", "told"),
    [
        ("5 .5 .5 .2 .2", InputError, r"0.txt, line 1: there is no class 5; the YAML names 0 to 1"),
        ("0.5 .5 .5 .2 .2", InputError, r"there is no class 0.5"),
        ("0 .5 .5 .2", CorruptFile, "3 numbers follow the class, not 4, or the corners"),
        ("0 a b c d", CorruptFile, "not made of numbers"),
        ("0 .5 .5 1.2 .2", InputError, "is outside the picture of 40×60 pixels"),
        (
            "\n0 .5 .5 1.2 .2",
            InputError,
            r"labels/train/0.txt, line 2 \(of 0.png\): .* the middle and the sides, as shares",
        ),
        ("0 .5 .5 -.2 .2", InputError, "has a negative side"),
        (
            "0 .5 .5 .2 .2 .5 .5 2 .4 .4 1",
            InputError,
            r"line 1: a box and 2 key points .* write kpt_shape: \[2, 3\] into",
        ),
        ("0 .5 .5 .2 .2 .5", CorruptFile, "5 numbers follow"),
    ],
)
def test_yolo_files_that_are_wrong(write, tmp_path, lines, error, told):
    with pytest.raises(error, match=told):
        data.load(f"yolo:{write.yolo(tmp_path / 'set', lines)}", image_size=64)


def test_yolo_files_that_are_no_text(write, tmp_path):
    path = write.yolo(tmp_path / "set")
    (tmp_path / "set" / "labels" / "train" / "2.txt").write_bytes(b"0 \xff")
    with pytest.raises(CorruptFile, match=r"train/2.txt: it is no text in UTF-8"):
        data.load(f"yolo:{path}", image_size=64)


@pytest.mark.parametrize(
    ("shape", "row"),
    [("[2, 3]", ".5 .5 2 .4 .6 1"), ("[2, 2]", ".5 .5 .4 .6"), ("[3, 2]", ".5 .5 .4 .6 0 0"), ("[2, 3]", "")],
)
def test_yolo_boxes_of_poses_are_read_where_the_yaml_says_what_follows_them(write, tmp_path, shape, row):
    path = write.yolo(tmp_path / "set", f"1 .5 .5 .2 .4 {row}\n")
    path.write_text(path.read_text() + f"kpt_shape: {shape}\n")
    loaded = data.load(f"yolo:{path}", image_size=(100, 100), resize="stretch")
    target = next(one for one in loaded.train.labels if len(one["labels"]))
    torch.testing.assert_close(target["boxes"], torch.tensor([[40.0, 30, 60, 70]]))
    path.write_text(path.read_text().replace(shape, "[9, 3]"))
    if row:
        with pytest.raises(CorruptFile, match="numbers follow the class, not 4, or 4 and 27 of its points"):
            data.load(f"yolo:{path}", image_size=64)


def test_yolo_polygons_are_boxes(write, tmp_path):
    path = write.yolo(tmp_path / "set", "1 .2 .3 .4 .3 .3 .5\n\n0 .5 .5 .2 .2\n", count=5)
    loaded = data.load(f"yolo:{path}", image_size=(100, 100), resize="stretch")
    target = next(one for one in loaded.train.labels if len(one["labels"]))
    torch.testing.assert_close(target["boxes"], torch.tensor([[20.0, 30, 40, 50], [40, 40, 60, 60]]))
    assert target["labels"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("content", "error", "told"),
    [
        ("train: [", CorruptFile, "it is no YAML"),
        ("- a", CorruptFile, "no YAML of keys and values"),
        ("train: images/train", CorruptFile, "names that do not count from 0"),
        ("train: images/train\nnames: {1: a}", CorruptFile, "names that do not count from 0"),
        ("train: images/train\nnames: {cat: 0, dog: 1}", CorruptFile, "names that do not count from 0"),
        ("train: images/train\nnames: cat", CorruptFile, "names that do not count from 0"),
        (
            "train: images/train\nnames: [a, b]\nkpt_shape: 17",
            CorruptFile,
            "kpt_shape is 17, not .* write kpt_shape",
        ),
        ("train: images/other\nnames: [a, b]", DataNotFound, "it names images/other, which is not in"),
    ],
)
def test_yaml_that_is_wrong(write, tmp_path, content, error, told):
    path = write.yolo(tmp_path / "set")
    path.write_text(content)
    with pytest.raises(error, match=told):
        data.load(f"yolo:{path}")


def test_yaml_with_a_root_lists_and_dots(write, tmp_path):
    path = write.yolo(tmp_path / "set")
    (tmp_path / "set" / "some.txt").write_text("images/val/0.png\nimages/val/2.png\n")
    path.write_text(
        f"path: {tmp_path / 'set'}\ntrain: [images/train, some.txt]\nval: ../images/val\nnames: [cat, dog]"
    )
    loaded = data.load(f"yolo:{path}", image_size=64)
    assert [len(loaded.train) + len(loaded.test), len(loaded.val)] == [10, 8]


def test_yolo_without_any_boxes_says_where_they_are_sought(write, tmp_path):
    path = write.yolo(tmp_path / "set")
    (tmp_path / "set" / "labels").rename(tmp_path / "labels")
    with pytest.raises(
        DataNotFound, match="no picture has a text file of boxes, such as .*labels/train/0.txt"
    ):
        data.load(f"yolo:{path}")
