"""Data sets with boxes, masks or numbers, whichever format they have."""

import pytest
import torch

from pintsize import data
from pintsize.data import folder, loading
from pintsize.data.placement import Placement
from pintsize.errors import DataNotFound, InputError


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_boxes_are_where_the_pictures_show_them(write, tmp_path, monkeypatch, kind, streamed, resize):
    if streamed:
        monkeypatch.setattr(loading, "MEMORY_LIMIT", 0)
        monkeypatch.setattr("pintsize.data.stream._WORKERS", 0)
    path = write.coco(tmp_path / "set") if kind == "coco" else write.yolo(tmp_path / "set")
    loaded = data.load(f"{kind}:{path}", image_size=(96, 128), resize=resize, **write.PLAIN)
    assert loaded.task == loaded.train.task == "detection"
    assert loaded.classes == (("dog", "cat") if kind == "coco" else ("cat", "dog"))
    assert loaded.image_shape == loaded.test.image_shape == (3, 96, 128)
    assert [len(loaded.train), len(loaded.test)] == [6, 2]  # a fifth is cut off to test
    found = 0
    for split in (loaded.train, loaded.val, loaded.test):
        for image, target in write.all_of(split):
            assert image.shape == (3, 96, 128)
            assert len(target["boxes"]) == len(target["labels"]) <= 1
            if len(target["boxes"]):
                found += 1
                assert target["boxes"].dtype == torch.float32
                torch.testing.assert_close(
                    target["boxes"][0], torch.tensor(write.white(image)).float(), atol=1.5, rtol=0
                )
    assert found == (10 if kind == "coco" else 14)  # one picture of each part has no box, or but a crowd
    augmented = [target for _, target in write.all_of(loaded.train, augment=True)]
    for target in augmented:
        assert (target["boxes"] >= 0).all()
        assert (target["boxes"] <= torch.tensor([128, 96, 128, 96])).all()


def test_pictures_of_one_size_keep_it(write, tmp_path):
    assert data.load(f"coco:{write.coco(tmp_path / 'a', sizes=[(40, 56)])}").image_shape == (3, 40, 56)
    assert data.load(f"coco:{write.coco(tmp_path / 'b')}").image_shape == (3, 640, 640)


def test_the_second_start_decodes_nothing(write, tmp_path, monkeypatch):
    name = f"coco:{write.coco(tmp_path / 'set')}"
    first = write.all_of(data.load(name, image_size=64).train)
    monkeypatch.setattr(folder, "decode_files", None)
    for (image, target), (again, same) in zip(
        first, write.all_of(data.load(name, image_size=64).train), strict=True
    ):
        assert torch.equal(image, again)
        assert torch.equal(target["boxes"], same["boxes"])


@pytest.mark.parametrize("kind", ["coco", "yolo", "masks", "csv"])
def test_what_is_not_there(kind, tmp_path):
    with pytest.raises(DataNotFound, match="nowhere: there is no such"):
        data.load(f"{kind}:{tmp_path}/nowhere")
    with pytest.raises(InputError, match=f"it names no file or folder; write {kind}:"):
        data.load(f"{kind}:")


def test_folders_without_what_they_need(write, tmp_path):
    with pytest.raises(DataNotFound, match=r"it has no annotations/instances_train\*.json"):
        data.load(f"coco:{tmp_path}")
    with pytest.raises(DataNotFound, match="it has no folder images"):
        data.load(f"masks:{tmp_path}")
    with pytest.raises(InputError, match="choose letterbox or stretch"):
        data.load(f"masks:{write.masks(tmp_path / 'set')}", resize="crop")


def test_placement_by_hand():
    place = Placement((100, 200))
    assert place.window(50, 50) == (0, 50, 100, 100)
    assert place.window(10, 40) == (25, 0, 50, 200)
    assert place.window(1, 4000) == (49, 0, 1, 200)
    assert place.boxes(torch.tensor([[10.0, 0, 20, 5]]), 10, 40).tolist() == [[50, 25, 100, 50]]
    assert Placement((100, 200), "stretch").boxes(torch.tensor([[10.0, 0, 20, 5]]), 10, 40).tolist() == [
        [50, 0, 100, 50]
    ]


def test_a_part_without_pictures_is_said(write, tmp_path):
    root = write.edited(
        write.coco(tmp_path / "set"), lambda c: c.update(images=[], annotations=[]), part="val"
    )
    with pytest.raises(InputError, match="a part has no pictures"):
        data.load(f"coco:{root}")


def test_parts_that_change_names_are_not_taken_from_the_cache(write, tmp_path):
    path = write.table(tmp_path)
    lines = path.read_text().splitlines()

    def loaded(*counts):
        parts = ["split"]
        for part, count in zip(("train", "val", "test"), counts, strict=True):
            parts += [part] * count
        path.write_text("\n".join(f"{line},{part}" for line, part in zip(lines, parts, strict=True)))
        return data.load(f"csv:{path}", **write.PLAIN)

    for counts in ((6, 2, 2), (5, 3, 2), (6, 3, 1)):
        made = loaded(*counts)
        assert (len(made.train), len(made.val), len(made.test)) == counts
        for split in (made.train, made.val, made.test):
            for image, numbers in write.all_of(split):
                assert numbers[0] == write.white(image)[0]


def test_a_path_alone_gets_its_prefix(write, tmp_path):
    made = {
        "coco": write.coco(tmp_path / "a"),
        "yolo": write.yolo(tmp_path / "b"),
        "masks": write.masks(tmp_path / "c"),
        "csv": write.table(tmp_path),
    }
    for kind, path in made.items():
        with pytest.raises(InputError, match=f"not the name of a data set; write {kind}:{path}"):
            data.load(str(path))
        assert len(data.load(f"{kind}:{path}", image_size=32, val_fraction=0.2).train)
