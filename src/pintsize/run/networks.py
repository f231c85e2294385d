"""From what a recipe or a command line says to a network: a name, a factory, a file, or a module itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import models
from ..data import Data
from ..deploy.options import known_input_shape
from ..errors import InputError, InputTypeError, unknown
from ..models import outside
from ..recipe.inputs import ModelSection
from ..recipe.sides import sides
from ..storage import network_file as files

SMALL_IMAGE = 64
"""Sides up to this many pixels get the `small` first layers where the stem is `auto`."""
_FILES = {".safetensors", ".pint", ".onnx"}


def build(
    section: ModelSection, *, image_shape: tuple[int, ...] | None, num_classes: int | None
) -> nn.Module:
    """The network that `section` describes, made to fit images (C, H, W) and a number of classes.

    Raises:
        InputError: no such name, file or factory, or its weights do not fit.
    """
    name, weights = section.name, section.weights
    if Path(name).suffix in _FILES:
        if weights is not None:
            raise InputError(
                f"model {name!r}", "it is a file with weights of its own", f"leave out {weights}"
            )
        return read(name)
    if section.pretrained and not models.is_named(name):
        raise InputError(f"model {name!r} with pretrained", "it is no network of a library",
                         "name one, such as timm:mobilenetv3_small_100, or its file of weights")  # fmt: skip
    if outside.is_outside(name):
        return _of_library(section, image_shape, num_classes)
    if ":" in name:
        given = {"num_classes": section.num_classes, "in_channels": section.in_channels}
        model = models.load_factory(name, **{key: value for key, value in given.items() if value is not None})
    elif not models.is_named(name):
        raise unknown(
            "model",
            name,
            [*models.list(), "package.module:factory", "timm:NAME", "torchvision:NAME", "FILE.onnx"],
        )
    else:
        channels = section.in_channels or (image_shape[0] if image_shape else 3)
        model = models.create(
            name,
            num_classes=section.num_classes or num_classes or 10,
            in_channels=channels,
            stem=_stem(section.stem, image_shape),
            pretrained=section.pretrained,
        )
    return model if weights is None else files.load(weights, model=model)


def read(path: str) -> nn.Module:
    """A network from a file of ours, or from an `.onnx` file.

    Raises:
        InputError: there is none of that name.
        CorruptFile: it is damaged.
        UnsupportedOp: it does what is not understood.
    """
    return models.from_onnx(path) if Path(path).suffix == ".onnx" else files.load(path)


def trained(name: str) -> nn.Module:
    """A network that comes with its weights: a file, a library's name, or what a factory makes.

    Raises:
        InputError: there is none, or its weights are random.
    """
    section = ModelSection(name=name, pretrained=outside.is_outside(name))
    if not starts_trained(section, None):
        raise InputError(f"model {name!r}", "its weights are random", "pass a file of the trained network")
    return build(section, image_shape=None, num_classes=None)


def _of_library(
    section: ModelSection, image_shape: tuple[int, ...] | None, num_classes: int | None
) -> nn.Module:
    """A network of timm or torchvision; its own weights are replaced by a file's."""
    return models.create(
        section.name,
        num_classes=section.num_classes or num_classes,
        in_channels=section.in_channels or (image_shape[0] if image_shape else None),
        stem=section.stem,
        pretrained=section.pretrained,
        weights=section.weights,
    )


def expected(named: nn.Module | ModelSection | None) -> models.Preprocessing | None:
    """How the images of a network's weights were made; None where there is nothing that tells."""
    if isinstance(named, nn.Module):
        return models.preprocessing_of(named)
    if named is None:
        return None
    if Path(named.name).suffix in _FILES:
        return models.preprocessing_of(read(named.name))
    return models.expected(named.name) if named.pretrained and outside.is_outside(named.name) else None


def starts_trained(section: ModelSection, num_classes: int | None) -> bool:
    """Whether a network comes with weights: none of its layers starts anew."""
    if section.weights is not None and not section.pretrained:
        return True
    if not models.is_named(section.name):
        return True  # a file, or a factory whose business that is
    told, wanted = expected(section), section.num_classes or num_classes
    return section.pretrained and (wanted is None or told is None or told.num_classes in (None, wanted))


def check_fits(model: nn.Module, data: Data) -> None:
    """Raise unless `model` takes the images of `data` and what it gives is of their task.

    Raises:
        InputTypeError: it is no network, or its output is none of the task.
        InputError: it has fewer outputs than there are classes.
        OperationError: its forward fails, or the task's loss or metric.
    """
    from ..tasks import task_of
    from ..training.rehearsal import rehearse

    if not isinstance(model, nn.Module):
        raise InputTypeError(
            f"model of type {type(model).__name__}", "it is no network", "pass a torch.nn.Module"
        )
    rehearse(model, data, task_of(None, data), training=False)


def _stem(stem: str, image_shape: tuple[int, ...] | None) -> str:
    if stem != "auto" or image_shape is None:
        return stem
    return "small" if max(image_shape[1:]) <= SMALL_IMAGE else "imagenet"


def example_for(model: nn.Module, data: Data | None, image_size: int | str | None) -> Any:
    """Two images for `model`: of the data, else zeros of the size that is given or that its stem is made for.

    Raises:
        InputError: the size is not known.
    """
    from ..data.batches import example_of

    if data is not None:
        return example_of(data.val, model)
    known = known_input_shape(model)
    if known is None and image_size is None:
        raise InputError(
            f"model {type(model).__name__}",
            "the size of its images is not known",
            "pass --image-size or --data",
        )
    channels = known[1] if known else in_channels(model)
    height, width = sides(image_size) or known[2:]  # type: ignore[index]
    return torch.zeros(2, channels, height, width)


def in_channels(model: nn.Module) -> int:
    """Colour channels that a network takes: those of its first convolution; 3 if it has none."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3
