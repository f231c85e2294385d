"""Tables of numbers."""

import pytest

from pintsize import data
from pintsize.errors import CorruptFile, DataNotFound


def test_numbers_of_a_table(write, tmp_path):
    loaded = data.load(f"csv:{write.table(tmp_path)}", **write.PLAIN)
    assert loaded.task == "regression"
    assert loaded.classes == ("age", "weight")
    assert loaded.image_shape == (3, 20, 30)
    assert [len(loaded.train), len(loaded.val), len(loaded.test)] == [7, 1, 2]
    for split in (loaded.train, loaded.val, loaded.test):
        for image, numbers in write.all_of(split):
            assert numbers.tolist() == [write.white(image)[0], write.white(image)[0] / 2]
    assert not loaded.train.transform.flip


def test_a_table_with_its_own_parts(write, tmp_path):
    path = write.table(tmp_path)
    lines = path.read_text().splitlines()
    parts = ["split", *["train"] * 6, "val", "val", "test", "Test"]
    path.write_text("\n".join(f"{line}, {part}" for line, part in zip(lines, parts, strict=True)) + "\n\n")
    loaded = data.load(f"csv:{path}")
    assert [len(loaded.train), len(loaded.val), len(loaded.test)] == [6, 2, 2]
    assert loaded.classes == ("age", "weight")


@pytest.mark.parametrize(
    ("old", "new", "error", "told"),
    [
        ("2.png,2", "2.png,two", CorruptFile, r"set.csv, line 4: age is 'two', not a number"),
        ("2.png,2", "2.png,", CorruptFile, r"line 4: age is ''"),
        ("2.png,2", "2.png,nan", CorruptFile, r"line 4: age is 'nan'"),
        ("2.png,2", "2.png", CorruptFile, r"line 4: it has 2 columns, the header 3"),
        ("2.png", "gone.png", DataNotFound, r"gone.png: the annotations name it"),
        ("file,age,weight", "file", CorruptFile, r"it has no columns of numbers"),
        ("weight\n", "split\n", CorruptFile, r"line 2: split is '0.0'"),
    ],
)
def test_tables_that_are_wrong(write, tmp_path, old, new, error, told):
    path = write.table(tmp_path)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(error, match=told):
        data.load(f"csv:{path}")


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (
            "",
            "line 1: it looks like a row of a picture.*pictures/0.png,0,0.0; write names above it, such as file,age",
        ),
        ("gone.png,3,4\n", "line 1: it looks like a row"),
        ("pictures/3.png,age,weight\n", "line 1: it looks like a row"),
        ("file,,weight\n", "line 1: column 2 has no name; name it, or remove it"),
    ],
)
def test_a_table_without_names(write, tmp_path, header, told):
    with pytest.raises(CorruptFile, match=told):
        data.load(f"csv:{write.table(tmp_path, header)}", **write.PLAIN)
    assert data.load(f"csv:{write.table(tmp_path, 'file,0,1' + chr(10))}", **write.PLAIN).classes == (
        "0",
        "1",
    )
