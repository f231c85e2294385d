"""Models and data as commands name them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..recipe.sides import sides

if TYPE_CHECKING:
    from torch import nn

    from ..data import Data
    from ..models import Preprocessing
    from ..tasks import Task


def load_model(
    name: str, data: Data | None = None, *, image_size: str | None = None, **options: Any
) -> nn.Module:
    """The network that `--model` and its options name, made to fit `data` where they leave it open."""
    from ..recipe.complaints import checked
    from ..run import networks

    given = {key: value for key, value in options.items() if value is not None}
    section = checked("model", {"name": name, **given}, source="options")
    size = sides(image_size)
    shape = None if size is None else (section.in_channels or 3, *size)
    shape, classes = (data.image_shape, len(data.classes) or None) if data else (shape, None)
    return networks.build(section, image_shape=shape, num_classes=classes)


def expected(name: str, *, pretrained: bool) -> Preprocessing | None:
    """How the images of the named network's weights were made, where that is known."""
    from ..recipe.complaints import checked
    from ..run import networks

    return networks.expected(checked("model", {"name": name, "pretrained": pretrained}, source="options"))


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Numbers with commas between them.

    Raises:
        InputError: they are none.
    """
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"--{option} {text}", "it is no list of numbers", "write such as 0.485,0.456,0.406"
        ) from error


def load_task(name: str) -> Task:
    """The task that `--task` names; a module of one's own is looked for in the folder of the shell, too."""
    from ..tasks import task_of

    return task_of(name)


def task_of_data(data: Data) -> Task:
    """What networks are to do with a data set."""
    from ..tasks import task_of

    return task_of(None, data)


def load_data(name: str, **options: Any) -> Data:
    """The data set that `--data` and its options name."""
    from ..data import load

    return load(name, **options)
