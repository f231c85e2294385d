import dataclasses
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pintsize import data
from pintsize.data import catalog, cifar
from pintsize.errors import CorruptFile, DataNotFound

TRAIN, TEST = 100, 20


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The two data sets with few images: all else is as in the official files."""
    for name, layout in (("cifar10", cifar.CIFAR10), ("cifar100", cifar.CIFAR100)):
        short = dataclasses.replace(layout, train_images=TRAIN, test_images=TEST)
        known = dataclasses.replace(
            catalog.KNOWN[name],
            places=lambda short=short: cifar.places(short, catalog.data_folder()),
            hub=None,
        )
        monkeypatch.setitem(catalog.KNOWN, name, known)


def images(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def records(pixels: np.ndarray, *labels: np.ndarray) -> bytes:
    planes = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    return np.concatenate([*(label[:, None].astype(np.uint8) for label in labels), planes], 1).tobytes()


def cifar10_files() -> dict[str, bytes]:
    names = "\n".join(f"class{i}" for i in range(10)) + "\n\n"
    batches = [records(part, np.arange(20) % 10) for part in np.split(images(TRAIN), 5)]
    return {
        **{f"data_batch_{i}.bin": content for i, content in enumerate(batches, 1)},
        "test_batch.bin": records(images(TEST), np.arange(TEST) % 10),
        "batches.meta.txt": names.encode(),
    }


def cifar100_files() -> dict[str, bytes]:
    def part(n: int) -> bytes:
        return records(images(n), np.full(n, 19), np.arange(n) % 100)

    names = "\n".join(f"fine{i}" for i in range(100))
    return {"train.bin": part(TRAIN), "test.bin": part(TEST), "fine_label_names.txt": names.encode()}


def put(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def pack(archive: Path, folder: str, files: dict[str, bytes]) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(f"{folder}/readme.html"))
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("packed", [False, True])
def test_cifar10(folders, packed):
    if packed:
        pack(folders / "data/cifar-10-binary.tar.gz", "cifar-10-batches-bin", cifar10_files())
    else:
        put(folders / "data/cifar-10-batches-bin", cifar10_files())
    for _ in range(2):  # decoded, then from the cache
        loaded = data.load("cifar10")
        assert (len(loaded.train), len(loaded.val), len(loaded.test)) == (90, 10, 20)
        assert loaded.classes == tuple(f"class{i}" for i in range(10))
        ((batch, labels),) = loaded.test.batches()
        mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
        expected = ((images(TEST) / 255 - mean) / std).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(batch.numpy(), expected, atol=1e-5)
        assert labels.tolist() == [i % 10 for i in range(TEST)]


@pytest.mark.parametrize("packed", [False, True])
def test_cifar100_has_the_fine_labels(folders, packed):
    if packed:
        pack(folders / "data/cifar-100-binary.tar.gz", "cifar-100-binary", cifar100_files())
    else:
        put(folders / "data/cifar-100-binary", cifar100_files())
    decoded = catalog.read("cifar100")
    assert decoded.parts["train"].labels.tolist() == list(range(100))
    assert np.array_equal(decoded.parts["train"].images.numpy(), images(TRAIN))
    assert decoded.classes[99] == "fine99"


def test_the_archive_is_never_unpacked(folders):
    files = cifar10_files()
    archive = folders / "data/cifar-10-binary.tar.gz"
    pack(archive, "../../outside", files)
    before = {path for path in folders.rglob("*") if "cache" not in path.parts}
    data.load("cifar10")
    assert {path for path in folders.rglob("*") if "cache" not in path.parts} == before


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "data_batch_3.bin",
            lambda content: content[:-1],
            "data_batch_3.bin: it has 61459 bytes, 20 images take 61460",
        ),
        ("test_batch.bin", lambda content: content[: 3073 * 10], "test_batch.bin: it has 30730 bytes"),
        (
            "test_batch.bin",
            lambda content: b"\x0a" + content[1:],
            "test_batch.bin: its labels are 1 to 10|0 to 10",
        ),
        ("batches.meta.txt", lambda content: b"airplane", "batches.meta.txt: it names 1 classes, not 10"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damage_is_named(folders, packed, name, change, message):
    files = cifar10_files()
    files[name] = change(files[name])
    if packed:
        pack(folders / "data/cifar-10-binary.tar.gz", "cifar-10-batches-bin", files)
    else:
        put(folders / "data/cifar-10-batches-bin", files)
    with pytest.raises(CorruptFile, match=message):
        data.load("cifar10")


def test_a_truncated_archive_is_refused(folders):
    archive = folders / "data/cifar-10-binary.tar.gz"
    pack(archive, "cifar-10-batches-bin", cifar10_files())
    whole = archive.read_bytes()
    for kept in (0, 10, len(whole) // 2):
        archive.write_bytes(whole[:kept])
        with pytest.raises(CorruptFile, match=r"cifar-10-binary.tar.gz"):
            data.load("cifar10")


def test_the_python_version_is_refused(folders):
    pack(folders / "data/cifar-10-binary.tar.gz", "cifar-10-batches-py", {"data_batch_1": b"pickle"})
    with pytest.raises(CorruptFile, match=r"it lacks data_batch_1.bin; fetch the binary version"):
        data.load("cifar10")


def test_a_missing_file_and_the_places_are_named(folders):
    files = cifar10_files()
    del files["data_batch_2.bin"]
    put(folders / "data/cifar-10-batches-bin", files)
    with pytest.raises(DataNotFound) as caught:
        data.load("cifar10")
    assert f"{folders}/data/cifar-10-batches-bin (it lacks data_batch_2.bin)" in str(caught.value)
    assert f"{folders}/data/cifar-10-binary.tar.gz (there is no such file)" in str(caught.value)
    assert "put cifar-10-binary.tar.gz from https://www.cs.toronto.edu" in caught.value.remedy


def test_the_official_numbers():
    for layout, records_length in ((cifar.CIFAR10, 3073), (cifar.CIFAR100, 3074)):
        assert (layout.train_images, layout.test_images) == (50_000, 10_000)
        assert layout.label_bytes + 3072 == records_length
    assert len(cifar.CIFAR10.train) == 5
