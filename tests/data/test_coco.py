"""Boxes in COCO's JSON."""

import pytest

from pintsize import data
from pintsize.errors import CorruptFile, DataNotFound, InputError


def test_a_json_file_by_itself(write, tmp_path):
    root = write.coco(tmp_path / "set", counts=(("train", 20),))
    file = (root / "annotations" / "instances_train2017.json").rename(root / "all.json")
    loaded = data.load(f"coco:{file}", image_size=64)
    assert [len(loaded.train), len(loaded.val), len(loaded.test)] == [14, 2, 4]


def test_pictures_in_folders_of_their_part(write, tmp_path):
    root = write.coco(tmp_path / "set")
    for part in ("train", "val"):
        (root / f"{part}2017").mkdir()
        for file in (root / "images").glob(f"{part}*"):
            file.rename(root / f"{part}2017" / file.name)
    assert len(data.load(f"coco:{root}", image_size=64).val) == 4


@pytest.mark.parametrize("below", ["{part}2017", "images", "images/{part}2017", "."])
def test_a_json_file_in_its_folder_of_annotations(write, tmp_path, below):
    root = write.coco(tmp_path / "set", counts=(("train", 20),))
    place = root / below.format(part="train")
    place.mkdir(parents=True, exist_ok=True)
    for file in (root / "images").glob("*.png"):
        file.rename(place / file.name)
    loaded = data.load(f"coco:{root}/annotations/instances_train2017.json", image_size=64)
    assert [len(loaded.train), len(loaded.val), len(loaded.test)] == [14, 2, 4]


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda c: c["annotations"][2].update(category_id=7), InputError,
         r"^\S*json, annotation 3: there is no category 7; .* 1 \(dog\), 3"),
        (lambda c: c["annotations"][2].update(image_id=7), InputError, r"^\S*json, annotation 3: there is no image 7"),
        (lambda c: c["categories"].append({"id": 3, "name": "cow"}), InputError, "category id 3 occurs 2 times; give each"),
        (lambda c: c["images"][2].update(id=100), InputError, "image id 100 occurs 2 times; give each image an id"),
        (lambda c: c["annotations"][2].update(bbox=[10, 5, 10, 60]), InputError,
         r"json, annotation 3 \(of train3.* 65.0\] is outside .* 30×90.* left, top, width and height"),
        (lambda c: c["annotations"][2].update(bbox=[10, 5, -3, 4]), InputError, "has a negative side"),
        (lambda c: c["annotations"][2].update(bbox=[10, 5, float("nan"), 4]), InputError, "is not made of finite numbers"),
        (lambda c: c["annotations"][2].update(bbox=[10, 5, 3]), CorruptFile, "it is not COCO's JSON"),
        (lambda c: c.update(categories=[], annotations=[]), InputError, "it has no categories; add one for each class"),
        (lambda c: c.pop("categories"), CorruptFile, "it is not COCO's JSON .*categories"),
        (lambda c: c["images"][2].update(file_name="gone.png"), DataNotFound, "gone.png: the annotations name it"),
        (lambda c: c["images"][2].update(height=41), InputError, "it has 40×40 pixels, its annotations say 41×40"),
        (lambda c: c["categories"][0].update(name="cow"), InputError, "its categories are not those of"),
    ],
)  # fmt: skip
def test_coco_files_that_are_wrong(write, tmp_path, change, error, told):
    root = write.edited(write.coco(tmp_path / "set"), change)
    with pytest.raises(error, match=told):
        data.load(f"coco:{root}", image_size=64)


def test_boxes_that_touch_the_border_or_are_flat_pass(write, tmp_path):
    def change(content):
        content["annotations"][0].update(bbox=[-0.4, 0, 60.8, 40.6])
        content["annotations"][1].update(bbox=[5, 5, 0, 4])

    root = write.edited(write.coco(tmp_path / "set", sizes=[(40, 60)]), change)
    loaded = data.load(f"coco:{root}")
    boxes = [target["boxes"].tolist() for split in (loaded.train, loaded.test) for target in split.labels]
    assert [[0, 0, 60, 40]] in boxes
    assert boxes.count([]) == 2  # the one without, and the one that has no extent


def test_json_that_is_damaged(write, tmp_path):
    root = write.coco(tmp_path / "set")
    file = root / "annotations" / "instances_train2017.json"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CorruptFile, match=r"instances_train2017.json: it is no JSON \(.*line 1 column"):
        data.load(f"coco:{root}")
    for content in (b"[1, 2]", b"\xff\xfe", b"3", b"[" * 100_000):
        file.write_bytes(content)
        with pytest.raises(CorruptFile):
            data.load(f"coco:{root}")
