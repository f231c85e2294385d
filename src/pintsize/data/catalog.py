"""The data sets that have a name: what they are, where they are looked for, how to get them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from ..errors import DataNotFound, OperationError
from . import cache, cifar, digits, hub, idx
from .places import Decoded, Place, data_folder

FOLDER_PREFIX, IMAGES_PREFIX = "imagefolder:", "images:"
FORMATS = {
    "coco": ("coco:PATH", "boxes in COCO's JSON: a folder with images/ and annotations/, or the JSON file"),
    "yolo": ("yolo:data.yaml", "boxes in Ultralytics' layout"),
    "masks": ("masks:PATH", "a folder with images/ and masks/, by name, for segmentation"),
    "csv": ("csv:FILE", "a table of file names and numbers, for regression"),
    "images": (f"{IMAGES_PREFIX}PATH", "any pictures without labels, frames of videos too, for imitation"),
}
"""Prefix → how a data set of this format is named, and what it is."""
SCENES = {
    "digits-scenes": "1,500 + 300 scenes 96×96, grey, of 1 to 5 digits, with boxes, for detection",
    "digits-scenes:masks": "the same scenes with masks of 10 digits and the background, for segmentation",
}
_DEBIAN, _DEBIAN_PACKAGE = Path("/usr/share/datasets"), "dataset-fashion-mnist"
_CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_CIFAR_STATISTICS = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_CIFAR_HOW = "put {} from https://www.cs.toronto.edu/~kriz/cifar.html into {}"


@dataclasses.dataclass(frozen=True)
class Known:
    """A data set with a name."""

    summary: str
    places: Callable[[], tuple[Place, ...]]
    """Where it is looked for, in order, on this machine."""
    how: Callable[[], str]
    """How to put it there."""
    hub: hub.HubSet | None = None
    """Where it is looked for last."""
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and standard deviation of the [0, 1] training images; None: computed from them."""
    pad: int = 4
    flip: bool = True
    peak: int = 255


def _cifar(layout: cifar.Layout, repository: str, label: str) -> Known:
    return Known(
        f"{layout.train_images:,} + {layout.test_images:,} photographs 32×32 in {layout.classes} classes",
        lambda: cifar.places(layout, data_folder()),
        lambda: _CIFAR_HOW.format(layout.archive, data_folder()),
        hub.HubSet(repository, "img", label, "RGB"),
        _CIFAR_STATISTICS,
    )


KNOWN: dict[str, Known] = {
    "cifar10": _cifar(cifar.CIFAR10, "uoft-cs/cifar10", "label"),
    "cifar100": _cifar(cifar.CIFAR100, "uoft-cs/cifar100", "fine_label"),
    "digits": Known(
        "1,797 handwritten digits 8×8, grey, in 10 classes (embedded in scikit-learn)",
        lambda: (),
        lambda: "it needs nothing",
        pad=1,
        flip=False,
        peak=digits.PEAK,
    ),
    "fashion-mnist": Known(
        "60,000 + 10,000 articles of clothing 28×28, grey, in 10 classes",
        lambda: tuple(idx.place(root / "fashion-mnist", _CLOTHES) for root in (data_folder(), _DEBIAN)),
        lambda: (
            f"apt install {_DEBIAN_PACKAGE}, or put its four IDX files into {data_folder() / 'fashion-mnist'}"
        ),
        hub.HubSet("zalando-datasets/fashion_mnist", "image", "label", "L"),
        ((0.2860,), (0.3530,)),
    ),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """What `describe` tells of one data set."""

    name: str
    summary: str
    found: bool
    where: str
    """Where it is, or how to get it."""


def names() -> list[str]:
    """The names that `load` takes, sorted; beside them it takes `imagefolder:PATH` and its like (see `describe`)."""
    return sorted([*KNOWN, *SCENES])


def describe() -> list[Entry]:
    """Every named data set, and whether it is on this machine. Nothing is read or downloaded."""
    entries = []
    for name in names():
        if name in SCENES:
            entries.append(Entry(name, SCENES[name], True, "made of the digits embedded in scikit-learn"))
            continue
        known = KNOWN[name]
        where = (
            "embedded in scikit-learn"
            if name == "digits"
            else next((str(place.path) for place in known.places() if place.lacks is None), None)
        )
        if where is None and known.hub and _from_hub(name, known.hub).is_file():
            where = str(_from_hub(name, known.hub))
        entries.append(Entry(name, known.summary, where is not None, where or _how(known)))
    formats = [(f"{FOLDER_PREFIX}PATH", "any folder of class folders of pictures"), *FORMATS.values()]
    return entries + [Entry(name, summary, True, "what you name") for name, summary in formats]


def read(name: str) -> Decoded:
    """The named data set, from the first place that has it.

    Raises:
        DataNotFound: no place has it; it says where it was looked for, and how to get it.
        CorruptFile: the place that has it has it damaged.
    """
    if name == "digits":
        return digits.read()
    known = KNOWN[name]
    places = known.places()
    for place in places:
        if place.lacks is None:
            return cache.remembered(name, str(place.path), cache.of_files(place.files), place.read)
    looked = [f"{place.path} ({place.lacks})" for place in places]
    cause: Exception | None = None
    if known.hub is not None:
        source = known.hub
        try:
            return cache.remembered(
                name, _hub_identity(source), _hub_identity(source), lambda: hub.fetch(source)
            )
        except OperationError as error:
            looked.append(f"the hub's {source.repository} ({error.cause})")
            cause = error
    raise DataNotFound(
        f"data set '{name}'", f"it is in none of the places looked in: {', '.join(looked)}", _how(known)
    ) from cause


def _how(known: Known) -> str:
    how = f"{known.how()}, or set PINTSIZE_DATA to the folder it is in"
    return how if hub.installed() else f"{how}, or pip install 'pintsize[hub]' to download it"


def _hub_identity(source: hub.HubSet) -> str:
    # What the hub holds under these names does not change, so a decoded copy serves without hub and network.
    return f"hub:{source.repository}"


def _from_hub(name: str, source: hub.HubSet) -> Path:
    return cache.where(name, _hub_identity(source))
