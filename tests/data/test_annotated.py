"""Data sets with boxes, masks or numbers, from their files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pintsize import data, evaluate, train
from pintsize.data import folder, loading
from pintsize.data.placement import Placement
from pintsize.errors import CorruptFile, DataNotFound, InputError
from pintsize.tasks import task_of

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}
SIZES = [(40, 60), (60, 40), (40, 40), (30, 90)]


def picture(path, size, box=None):
    """Black, with a white rectangle."""
    pixels = np.zeros((*size, 3), np.uint8)
    if box is not None:
        left, top, right, bottom = box
        pixels[top:bottom, left:right] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def coco(
    root, counts=(("train", 8), ("val", 4)), sizes=SIZES, categories=((3, "cat"), (1, "dog")), **changes
):
    for part, count in counts:
        images, annotations = [], []
        for number in range(count):
            height, width = sizes[number % len(sizes)]
            name = f"{part}{number}.png"
            picture(root / "images" / name, (height, width), (10, 5, 10 + 4 * (number % 4 + 1), 25))
            images.append({"id": 100 + number, "file_name": name, "height": height, "width": width})
            if number != 1:
                annotations.append({"id": number, "image_id": 100 + number, "category_id": categories[number % 2][0],
                                    "bbox": [10, 5, 4 * (number % 4 + 1), 20], "iscrowd": 0, **changes})  # fmt: skip
        annotations.append(
            {"id": 99, "image_id": 101, "category_id": 3, "bbox": [0, 0, 30, 30], "iscrowd": 1}
        )
        file = root / "annotations" / f"instances_{part}2017.json"
        file.parent.mkdir(exist_ok=True)
        told = [{"id": number, "name": name} for number, name in categories]
        file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": told}))
    return root


def yolo(root, lines=None, names=("cat", "dog"), count=8):
    for part in ("train", "val"):
        for number in range(count):
            height, width = SIZES[number % len(SIZES)]
            right = 10 + 4 * (number % 4 + 1)
            picture(root / "images" / part / f"{number}.png", (height, width), (10, 5, right, 25))
            if number == 1:
                continue
            box = [(10 + right) / 2 / width, 15 / height, (right - 10) / width, 20 / height]
            label = root / "labels" / part / f"{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(lines or f"{number % 2} {' '.join(map(str, box))}\n")
    listed = "\n".join(f"  {at}: {name}" for at, name in enumerate(names))
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames:\n{listed}\n")
    return root / "data.yaml"


def masks(root, sizes=SIZES, count=8, form="L", highest=2):
    for number in range(count):
        size = sizes[number % len(sizes)]
        picture(root / "images" / f"{number}.jpg", size, (10, 5, 30, 25))
        values = np.zeros(size, np.uint8)
        values[5:25, 10:30] = number % highest + 1
        (root / "masks").mkdir(exist_ok=True)
        mask = Image.fromarray(values)
        if form == "P":
            mask = Image.fromarray(values, "L")
            mask.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        mask.save(root / "masks" / f"{number}.png")
    return root


def white(image):
    """The bounding box of what is white."""
    rows, columns = ((image[0] > 0.5).any(dim).nonzero().flatten() for dim in (1, 0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def all_of(split, **options):
    batches = split.batches(3, **options)
    return [pair for images, targets in batches for pair in zip(images, targets, strict=True)]


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_boxes_are_where_the_pictures_show_them(tmp_path, monkeypatch, kind, streamed, resize):
    if streamed:
        monkeypatch.setattr(loading, "MEMORY_LIMIT", 0)
        monkeypatch.setattr("pintsize.data.stream._WORKERS", 0)
    path = coco(tmp_path / "set") if kind == "coco" else yolo(tmp_path / "set")
    loaded = data.load(f"{kind}:{path}", image_size=(96, 128), resize=resize, **PLAIN)
    assert loaded.task == loaded.train.task == "detection"
    assert loaded.classes == (("dog", "cat") if kind == "coco" else ("cat", "dog"))
    assert loaded.image_shape == loaded.test.image_shape == (3, 96, 128)
    assert [len(loaded.train), len(loaded.test)] == [6, 2]  # a fifth is cut off to test
    found = 0
    for split in (loaded.train, loaded.val, loaded.test):
        for image, target in all_of(split):
            assert image.shape == (3, 96, 128)
            assert len(target["boxes"]) == len(target["labels"]) <= 1
            if len(target["boxes"]):
                found += 1
                assert target["boxes"].dtype == torch.float32
                torch.testing.assert_close(
                    target["boxes"][0], torch.tensor(white(image)).float(), atol=1.5, rtol=0
                )
    assert found == (10 if kind == "coco" else 14)  # one picture of each part has no box, or but a crowd
    augmented = [target for _, target in all_of(loaded.train, augment=True)]
    for target in augmented:
        assert (target["boxes"] >= 0).all()
        assert (target["boxes"] <= torch.tensor([128, 96, 128, 96])).all()


def test_pictures_of_one_size_keep_it(tmp_path):
    assert data.load(f"coco:{coco(tmp_path / 'a', sizes=[(40, 56)])}").image_shape == (3, 40, 56)
    assert data.load(f"coco:{coco(tmp_path / 'b')}").image_shape == (3, 640, 640)


def test_the_second_start_decodes_nothing(tmp_path, monkeypatch):
    name = f"coco:{coco(tmp_path / 'set')}"
    first = all_of(data.load(name, image_size=64).train)
    monkeypatch.setattr(folder, "decode_files", None)
    for (image, target), (again, same) in zip(
        first, all_of(data.load(name, image_size=64).train), strict=True
    ):
        assert torch.equal(image, again)
        assert torch.equal(target["boxes"], same["boxes"])


def test_a_json_file_by_itself(tmp_path):
    root = coco(tmp_path / "set", counts=(("train", 20),))
    file = (root / "annotations" / "instances_train2017.json").rename(root / "all.json")
    loaded = data.load(f"coco:{file}", image_size=64)
    assert [len(loaded.train), len(loaded.val), len(loaded.test)] == [14, 2, 4]


def test_pictures_in_folders_of_their_part(tmp_path):
    root = coco(tmp_path / "set")
    for part in ("train", "val"):
        (root / f"{part}2017").mkdir()
        for file in (root / "images").glob(f"{part}*"):
            file.rename(root / f"{part}2017" / file.name)
    assert len(data.load(f"coco:{root}", image_size=64).val) == 4


@pytest.mark.parametrize("below", ["{part}2017", "images", "images/{part}2017", "."])
def test_a_json_file_in_its_folder_of_annotations(tmp_path, below):
    root = coco(tmp_path / "set", counts=(("train", 20),))
    place = root / below.format(part="train")
    place.mkdir(parents=True, exist_ok=True)
    for file in (root / "images").glob("*.png"):
        file.rename(place / file.name)
    loaded = data.load(f"coco:{root}/annotations/instances_train2017.json", image_size=64)
    assert [len(loaded.train), len(loaded.val), len(loaded.test)] == [14, 2, 4]


def edited(root, change, part="train"):
    file = root / "annotations" / f"instances_{part}2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return root


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
        (lambda c: c.pop("categories"), CorruptFile, "it is not COCO's JSON .*categories"),
        (lambda c: c["images"][2].update(file_name="gone.png"), DataNotFound, "gone.png: the annotations name it"),
        (lambda c: c["images"][2].update(height=41), InputError, "it has 40×40 pixels, its annotations say 41×40"),
        (lambda c: c["categories"][0].update(name="cow"), InputError, "its categories are not those of"),
    ],
)  # fmt: skip
def test_coco_files_that_are_wrong(tmp_path, change, error, told):
    root = edited(coco(tmp_path / "set"), change)
    with pytest.raises(error, match=told):
        data.load(f"coco:{root}", image_size=64)


def test_boxes_that_touch_the_border_or_are_flat_pass(tmp_path):
    def change(content):
        content["annotations"][0].update(bbox=[-0.4, 0, 60.8, 40.6])
        content["annotations"][1].update(bbox=[5, 5, 0, 4])

    root = edited(coco(tmp_path / "set", sizes=[(40, 60)]), change)
    loaded = data.load(f"coco:{root}")
    boxes = [target["boxes"].tolist() for split in (loaded.train, loaded.test) for target in split.labels]
    assert [[0, 0, 60, 40]] in boxes
    assert boxes.count([]) == 2  # the one without, and the one that has no extent


def test_json_that_is_damaged(tmp_path):
    root = coco(tmp_path / "set")
    file = root / "annotations" / "instances_train2017.json"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CorruptFile, match=r"instances_train2017.json: it is no JSON \(.*line 1 column"):
        data.load(f"coco:{root}")
    for content in (b"[1, 2]", b"\xff\xfe", b"3", b"[" * 100_000):
        file.write_bytes(content)
        with pytest.raises(CorruptFile):
            data.load(f"coco:{root}")


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
def test_yolo_files_that_are_wrong(tmp_path, lines, error, told):
    with pytest.raises(error, match=told):
        data.load(f"yolo:{yolo(tmp_path / 'set', lines)}", image_size=64)


def test_yolo_files_that_are_no_text(tmp_path):
    path = yolo(tmp_path / "set")
    (tmp_path / "set" / "labels" / "train" / "2.txt").write_bytes(b"0 \xff")
    with pytest.raises(CorruptFile, match=r"train/2.txt: it is no text in UTF-8"):
        data.load(f"yolo:{path}", image_size=64)


@pytest.mark.parametrize(
    ("shape", "row"),
    [("[2, 3]", ".5 .5 2 .4 .6 1"), ("[2, 2]", ".5 .5 .4 .6"), ("[3, 2]", ".5 .5 .4 .6 0 0"), ("[2, 3]", "")],
)
def test_yolo_boxes_of_poses_are_read_where_the_yaml_says_what_follows_them(tmp_path, shape, row):
    path = yolo(tmp_path / "set", f"1 .5 .5 .2 .4 {row}\n")
    path.write_text(path.read_text() + f"kpt_shape: {shape}\n")
    loaded = data.load(f"yolo:{path}", image_size=(100, 100), resize="stretch")
    target = next(one for one in loaded.train.labels if len(one["labels"]))
    torch.testing.assert_close(target["boxes"], torch.tensor([[40.0, 30, 60, 70]]))
    path.write_text(path.read_text().replace(shape, "[9, 3]"))
    if row:
        with pytest.raises(CorruptFile, match="numbers follow the class, not 4, or 4 and 27 of its points"):
            data.load(f"yolo:{path}", image_size=64)


def test_yolo_polygons_are_boxes(tmp_path):
    path = yolo(tmp_path / "set", "1 .2 .3 .4 .3 .3 .5\n\n0 .5 .5 .2 .2\n", count=5)
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
def test_yaml_that_is_wrong(tmp_path, content, error, told):
    path = yolo(tmp_path / "set")
    path.write_text(content)
    with pytest.raises(error, match=told):
        data.load(f"yolo:{path}")


def test_yaml_with_a_root_lists_and_dots(tmp_path):
    path = yolo(tmp_path / "set")
    (tmp_path / "set" / "some.txt").write_text("images/val/0.png\nimages/val/2.png\n")
    path.write_text(
        f"path: {tmp_path / 'set'}\ntrain: [images/train, some.txt]\nval: ../images/val\nnames: [cat, dog]"
    )
    loaded = data.load(f"yolo:{path}", image_size=64)
    assert [len(loaded.train) + len(loaded.test), len(loaded.val)] == [10, 8]


def test_yolo_without_any_boxes_says_where_they_are_sought(tmp_path):
    path = yolo(tmp_path / "set")
    (tmp_path / "set" / "labels").rename(tmp_path / "labels")
    with pytest.raises(
        DataNotFound, match="no picture has a text file of boxes, such as .*labels/train/0.txt"
    ):
        data.load(f"yolo:{path}")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("form", ["L", "P"])
def test_masks_are_where_the_pictures_show_them(tmp_path, monkeypatch, streamed, form):
    if streamed:
        monkeypatch.setattr(loading, "MEMORY_LIMIT", 0)
        monkeypatch.setattr("pintsize.data.stream._WORKERS", 0)
    loaded = data.load(
        f"masks:{masks(tmp_path / 'set', form=form)}", image_size=(96, 128), val_fraction=0.2, **PLAIN
    )
    assert loaded.task == {"name": "segmentation", "ignore_index": 255}
    assert loaded.classes == ("0", "1", "2")
    for split in (loaded.train, loaded.val, loaded.test):
        for augment in (False, True):
            for image, mask in all_of(split, augment=augment):
                assert mask.shape == image.shape[1:] == (96, 128)
                assert mask.dtype == torch.int64
                assert set(mask.unique().tolist()) <= {0, 1, 2, 255}
                shown, said = image[0] > 0.9, (mask == 1) | (mask == 2)
                assert (shown != said).float().mean() < 0.02  # JPEG, and the border of what was enlarged


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("ignored", [0, 2, 254, -100])
def test_what_does_not_count_in_masks_is_called_as_the_task_calls_it(
    tmp_path, monkeypatch, streamed, ignored
):
    if streamed:
        monkeypatch.setattr(loading, "MEMORY_LIMIT", 0)
        monkeypatch.setattr("pintsize.data.stream._WORKERS", 0)
    loaded = data.load(f"masks:{masks(tmp_path / 'set')}", image_size=(96, 128), **PLAIN)
    told = {"name": "segmentation", "ignore_index": ignored}
    for given in (told, task_of(told)):
        for augment in (False, True):
            before, after = (
                all_of(split, augment=augment) for split in (loaded.train, loaded.for_task(given).train)
            )
            for (_, mask), (_, same) in zip(before, after, strict=True):
                assert (mask == 255).any()  # the border
                assert torch.equal(same, mask.masked_fill(mask == 255, ignored))
    net = torch.nn.Conv2d(3, 3, 1)
    assert train(net, loaded.for_task(told), epochs=1, progress=False)
    assert train(net, loaded, task=told, epochs=1, progress=False)
    assert evaluate(net, loaded.for_task(told).val) == evaluate(net, loaded.val, task=told)


def test_masks_in_parts_with_names(tmp_path):
    root = tmp_path / "set"
    for part, count in (("train", 6), ("val", 3), ("test", 2)):
        masks(root / part, count=count)
    (root / "classes.txt").write_text("sky\nroad\ncar\ntree\n")
    loaded = data.load(f"masks:{root}")
    assert loaded.classes == ("sky", "road", "car", "tree")
    assert [len(loaded.train), len(loaded.val), len(loaded.test)] == [6, 3, 2]
    assert loaded.image_shape == (3, 512, 512)
    (root / "classes.txt").write_text("sky\nroad\n")
    with pytest.raises(InputError, match=r"masks/1.png: it has class 2, classes.txt names 0 to 1"):
        data.load(f"masks:{root}")


def test_masks_of_another_size(tmp_path):
    root = masks(tmp_path / "set")
    Image.fromarray(np.zeros((40, 61), np.uint8)).save(root / "masks" / "0.png")
    with pytest.raises(InputError, match=r"0.png: it has 40×61 pixels, its picture 0.jpg 40×60"):
        data.load(f"masks:{root}", image_size=64)


def test_masks_that_are_lost_or_no_masks(tmp_path):
    root = masks(tmp_path / "set")
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
def test_masks_of_0_and_255_say_what_255_is(tmp_path, named):
    root = masks(tmp_path / "set")
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
def test_pictures_or_masks_of_one_name_are_not_dropped(tmp_path, name):
    root = masks(tmp_path / "set")
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(root / name)
    with pytest.raises(InputError, match=r"0\.\w+: 0\.\w+ has the same name.*remove or rename"):
        data.load(f"masks:{root}", image_size=64)


def test_names_of_classes_that_are_no_text(tmp_path):
    root = masks(tmp_path / "set")
    (root / "classes.txt").write_bytes("größe\nweg\n".encode("latin-1"))
    with pytest.raises(CorruptFile, match=r"classes.txt: it is no text in UTF-8"):
        data.load(f"masks:{root}", image_size=64)


def table(root, text="file,age,weight\n", count=10):
    for number in range(count):
        picture(root / "pictures" / f"{number}.png", (20, 30), (number, 0, number + 2, 20))
    rows = "".join(f"pictures/{number}.png,{number},{number / 2}\n" for number in range(count))
    (root / "set.csv").write_text(text + rows)
    return root / "set.csv"


def test_numbers_of_a_table(tmp_path):
    loaded = data.load(f"csv:{table(tmp_path)}", **PLAIN)
    assert loaded.task == "regression"
    assert loaded.classes == ("age", "weight")
    assert loaded.image_shape == (3, 20, 30)
    assert [len(loaded.train), len(loaded.val), len(loaded.test)] == [7, 1, 2]
    for split in (loaded.train, loaded.val, loaded.test):
        for image, numbers in all_of(split):
            assert numbers.tolist() == [white(image)[0], white(image)[0] / 2]
    assert not loaded.train.transform.flip


def test_a_table_with_its_own_parts(tmp_path):
    path = table(tmp_path)
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
def test_tables_that_are_wrong(tmp_path, old, new, error, told):
    path = table(tmp_path)
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
def test_a_table_without_names(tmp_path, header, told):
    with pytest.raises(CorruptFile, match=told):
        data.load(f"csv:{table(tmp_path, header)}", **PLAIN)
    assert data.load(f"csv:{table(tmp_path, 'file,0,1' + chr(10))}", **PLAIN).classes == ("0", "1")


@pytest.mark.parametrize("kind", ["coco", "yolo", "masks", "csv"])
def test_what_is_not_there(kind, tmp_path):
    with pytest.raises(DataNotFound, match="nowhere: there is no such"):
        data.load(f"{kind}:{tmp_path}/nowhere")
    with pytest.raises(InputError, match=f"it names no file or folder; write {kind}:"):
        data.load(f"{kind}:")


def test_folders_without_what_they_need(tmp_path):
    with pytest.raises(DataNotFound, match=r"it has no annotations/instances_train\*.json"):
        data.load(f"coco:{tmp_path}")
    with pytest.raises(DataNotFound, match="it has no folder images"):
        data.load(f"masks:{tmp_path}")
    with pytest.raises(InputError, match="choose letterbox or stretch"):
        data.load(f"masks:{masks(tmp_path / 'set')}", resize="crop")


def test_placement_by_hand():
    place = Placement((100, 200))
    assert place.window(50, 50) == (0, 50, 100, 100)
    assert place.window(10, 40) == (25, 0, 50, 200)
    assert place.window(1, 4000) == (49, 0, 1, 200)
    assert place.boxes(torch.tensor([[10.0, 0, 20, 5]]), 10, 40).tolist() == [[50, 25, 100, 50]]
    assert Placement((100, 200), "stretch").boxes(torch.tensor([[10.0, 0, 20, 5]]), 10, 40).tolist() == [
        [50, 0, 100, 50]
    ]


def test_a_part_without_pictures_is_said(tmp_path):
    root = edited(coco(tmp_path / "set"), lambda c: c.update(images=[], annotations=[]), part="val")
    with pytest.raises(InputError, match="a part has no pictures"):
        data.load(f"coco:{root}")


def test_parts_that_change_names_are_not_taken_from_the_cache(tmp_path):
    path = table(tmp_path)
    lines = path.read_text().splitlines()

    def loaded(*counts):
        parts = ["split"]
        for part, count in zip(("train", "val", "test"), counts, strict=True):
            parts += [part] * count
        path.write_text("\n".join(f"{line},{part}" for line, part in zip(lines, parts, strict=True)))
        return data.load(f"csv:{path}", **PLAIN)

    for counts in ((6, 2, 2), (5, 3, 2), (6, 3, 1)):
        made = loaded(*counts)
        assert (len(made.train), len(made.val), len(made.test)) == counts
        for split in (made.train, made.val, made.test):
            for image, numbers in all_of(split):
                assert numbers[0] == white(image)[0]


def test_a_path_alone_gets_its_prefix(tmp_path):
    made = {
        "coco": coco(tmp_path / "a"), "yolo": yolo(tmp_path / "b"), "masks": masks(tmp_path / "c"), "csv": table(tmp_path),
    }  # fmt: skip
    for kind, path in made.items():
        with pytest.raises(InputError, match=f"not the name of a data set; write {kind}:{path}"):
            data.load(str(path))
        assert len(data.load(f"{kind}:{path}", image_size=32, val_fraction=0.2).train)
