import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pintsize import data
from pintsize.data import catalog, hub
from pintsize.errors import CorruptFile, DataNotFound, MissingExtra, OperationError

NAMES = tuple(f"class{i}" for i in range(10))


class Rows(list):
    """What `datasets.load_dataset` gives, as far as it is used."""

    def __init__(self, rows, label):
        super().__init__(rows)
        self.features = {label: SimpleNamespace(names=NAMES)}


def picture(number: int, size=(32, 32)) -> Image.Image:
    return Image.fromarray(np.full((*size, 3), number, np.uint8))


@pytest.fixture
def fake(monkeypatch):
    calls = []

    def load_dataset(repository, *, split):
        calls.append((repository, split))
        n = {"train": 100, "test": 20}[split]
        label = "fine_label" if repository.endswith("100") else "label"
        image = "image" if "fashion" in repository else "img"
        return Rows([{image: picture(i), label: i % 10} for i in range(n)], label)

    module = SimpleNamespace(load_dataset=load_dataset, calls=calls)
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


@pytest.mark.parametrize(
    ("name", "repository", "channels"),
    [
        ("cifar10", "uoft-cs/cifar10", 3),
        ("cifar100", "uoft-cs/cifar100", 3),
        ("fashion-mnist", "zalando-datasets/fashion_mnist", 1),
    ],
)
def test_the_hub_is_asked_last_and_once(fake, name, repository, channels, monkeypatch):
    loaded = data.load(name)
    assert fake.calls == [(repository, "train"), (repository, "test")]
    assert loaded.classes == NAMES
    assert loaded.image_shape == (channels, 32, 32)
    assert [len(split) for split in (loaded.train, loaded.val, loaded.test)] == [90, 10, 20]
    ((images, labels),) = loaded.test.batches()
    shown = (images[:, 0, 0, 0] * loaded.std[0] + loaded.mean[0]).mul(255).round()
    assert shown.tolist() == list(range(20))
    assert labels.tolist() == [i % 10 for i in range(20)]
    monkeypatch.setitem(sys.modules, "datasets", None)  # from now on it is not installed, nor needed
    assert len(data.load(name).test) == 20
    (entry,) = (entry for entry in data.describe() if entry.name == name)
    assert entry.found


def test_without_the_extra_it_says_where_it_looked(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr(hub, "installed", lambda: False)
    with pytest.raises(DataNotFound) as caught:
        data.load("fashion-mnist")
    message = str(caught.value)
    for part in (
        "data set 'fashion-mnist'",
        f"{folders}/data/fashion-mnist (there is no such folder)",
        f"{folders}/debian/fashion-mnist (there is no such folder)",
        "zalando-datasets/fashion_mnist (the optional dependency",
        "apt install dataset-fashion-mnist",
        "PINTSIZE_DATA",
        "pip install 'pintsize[hub]'",
    ):
        assert part in message
    assert isinstance(caught.value.__cause__, MissingExtra)


def test_without_a_network_it_says_so(fake):
    def load_dataset(repository, *, split):
        raise ConnectionError("no route to the hub\nand a long story")

    fake.load_dataset = load_dataset
    with pytest.raises(
        DataNotFound, match=r"uoft-cs/cifar10 \(it cannot be fetched \(no route to the hub\)\)"
    ) as caught:
        data.load("cifar10")
    assert isinstance(caught.value.__cause__, OperationError)
    assert isinstance(caught.value.__cause__.__cause__, ConnectionError)


def test_the_retries_of_the_client_are_not_shown(fake, caplog):
    logger = logging.getLogger("huggingface_hub")
    logger.setLevel(logging.WARNING)

    def load_dataset(repository, *, split):
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s")
        raise ConnectionError("no route to the hub")

    fake.load_dataset = load_dataset
    with pytest.raises(DataNotFound):
        data.load("cifar10")
    assert not caplog.records
    assert logger.level == logging.WARNING


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "it is empty"),
        (
            [{"img": picture(0), "label": 0}, {"img": picture(0, (8, 8)), "label": 0}],
            "its images differ in size",
        ),
        ([{"img": picture(0), "label": 10}], "its labels are 10 to 10, its classes 0 to 9"),
    ],
)
def test_what_does_not_fit_together_is_refused(fake, rows, message):
    fake.load_dataset = lambda repository, *, split: Rows(rows, "label")
    with pytest.raises(CorruptFile, match=message):
        data.load("cifar10")


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_the_real_library_gives_what_is_expected(tmp_path, monkeypatch):
    """A folder of pictures on disk stands for a repository of the hub."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "huggingface")
    for part, n in (("train", 20), ("test", 10)):
        for i in range(n):
            folder = tmp_path / "repository" / part / f"class{i % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            picture(i).save(folder / f"{i:02}.png")
    decoded = hub.fetch(hub.HubSet(str(tmp_path / "repository"), "image", "label", "RGB"))
    assert decoded.classes == ("class0", "class1")
    assert decoded.parts["train"].images.shape == (20, 32, 32, 3)
    images, labels = decoded.parts["test"]
    shown = images[:, 5, 5, 1].tolist()
    assert sorted(shown) == list(range(10))
    assert [number % 2 for number in shown] == labels.tolist()


def test_every_known_set_of_the_hub_names_its_columns():
    columns = {name: (known.hub.image, known.hub.label) for name, known in catalog.KNOWN.items() if known.hub}
    assert columns == {
        "cifar10": ("img", "label"),
        "cifar100": ("img", "fine_label"),
        "fashion-mnist": ("image", "label"),
    }
