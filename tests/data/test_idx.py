import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from pintsize import data
from pintsize.data import idx
from pintsize.errors import CorruptFile, DataNotFound

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def encode(array: np.ndarray) -> bytes:
    return (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        + array.astype(np.uint8).tobytes()
    )


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    chance = np.random.default_rng(0)
    return {
        NAMES[0]: chance.integers(0, 256, (100, 28, 28)),
        NAMES[1]: np.arange(100) % 10,
        NAMES[2]: chance.integers(0, 256, (20, 28, 28)),
        NAMES[3]: np.arange(20) % 10,
    }


def write(folder: Path, arrays: dict[str, np.ndarray], *, gz: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        content = encode(array)
        (folder / (f"{name}.gz" if gz else name)).write_bytes(gzip.compress(content) if gz else content)


def test_reads_what_is_written(tmp_path):
    array = np.arange(24).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(encode(array))
    (tmp_path / "a.gz").write_bytes(gzip.compress(encode(array)))
    for name in ("a", "a.gz"):
        assert np.array_equal(idx.read(tmp_path / name), array)


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("place", ["data", "debian"])
def test_fashion_mnist_is_found(folders, arrays, gz, place):
    write(folders / place / "fashion-mnist", arrays, gz=gz)
    loaded = data.load("fashion-mnist", val_fraction=0.2)
    assert (len(loaded.train), len(loaded.val), len(loaded.test)) == (80, 20, 20)
    assert loaded.image_shape == (1, 28, 28)
    assert loaded.classes[9] == "Ankle boot"
    ((images, labels),) = loaded.test.batches()
    expected = (arrays[NAMES[2]] / 255 - 0.2860) / 0.3530
    np.testing.assert_allclose(images[:, 0].numpy(), expected, atol=1e-5)
    assert labels.tolist() == arrays[NAMES[3]].tolist()


def test_the_data_folder_comes_before_debians(folders, arrays):
    write(folders / "debian" / "fashion-mnist", arrays)
    write(
        folders / "data" / "fashion-mnist", {name: array[: len(array) // 2] for name, array in arrays.items()}
    )
    assert len(data.load("fashion-mnist").test) == 10


def test_a_changed_file_is_noticed(folders, arrays):
    write(folders / "data" / "fashion-mnist", arrays)
    assert len(data.load("fashion-mnist").test) == 20
    write(
        folders / "data" / "fashion-mnist", {name: array[: len(array) // 2] for name, array in arrays.items()}
    )
    assert len(data.load("fashion-mnist").test) == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\x89PNG____", "not an IDX file"),
        (b"\0\0\x0d\x01\0\0\0\1\0\0\0\0", "not an IDX file of unsigned bytes"),  # floats
        (b"\0\0\x08\x03\0\0\0\1", "ends within its header"),
        (encode(np.zeros((3, 4)))[:-1], r"promises 12 bytes of data \(3, 4\), it holds 11"),
        (encode(np.zeros((3, 4))) + b"\0", "promises 12 bytes"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content, message):
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    for name in ("a", "a.gz"):
        with pytest.raises(CorruptFile, match=message) as caught:
            idx.read(tmp_path / name)
        assert caught.value.what == str(tmp_path / name)


def test_a_truncated_or_false_gzip_is_refused(tmp_path):
    path = tmp_path / "a.gz"
    whole = gzip.compress(encode(np.zeros((30, 4))))
    for content in (whole[:-9], whole[:20], encode(np.zeros((3, 4)))):
        path.write_bytes(content)
        with pytest.raises(CorruptFile, match=r"a\.gz: it cannot be read whole"):
            idx.read(path)


def test_wrong_label_counts_are_refused(folders, arrays):
    arrays[NAMES[1]] = arrays[NAMES[1]][:99]
    write(folders / "data" / "fashion-mnist", arrays)
    with pytest.raises(CorruptFile, match=r"train-labels.*99 labels for 100 images"):
        data.load("fashion-mnist")


def test_labels_beyond_the_classes_are_refused(folders, arrays):
    arrays[NAMES[3]] = arrays[NAMES[3]] + 1
    write(folders / "data" / "fashion-mnist", arrays)
    with pytest.raises(CorruptFile, match=r"t10k-labels.*1 to 10, its classes 0 to 9"):
        data.load("fashion-mnist")


def test_images_and_labels_exchanged_are_refused(folders, arrays):
    arrays[NAMES[0]], arrays[NAMES[1]] = arrays[NAMES[1]], arrays[NAMES[0]]
    write(folders / "data" / "fashion-mnist", arrays)
    with pytest.raises(CorruptFile, match=r"train-images.*1 dimensions, not 3"):
        data.load("fashion-mnist")


def test_a_missing_file_is_named(folders, arrays):
    del arrays[NAMES[3]]
    write(folders / "data" / "fashion-mnist", arrays)
    with pytest.raises(
        DataNotFound,
        match=r"it lacks t10k-labels-idx1-ubyte\).*debian/fashion-mnist \(there is no such folder",
    ):
        data.load("fashion-mnist")
