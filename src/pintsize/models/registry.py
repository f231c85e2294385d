"""The names of the networks, and `create`."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from pintsize.errors import InputError, InputTypeError, unknown
from pintsize.storage.record import set_origin

from ..storage import network_file as files
from . import outside
from .alexnet import AlexNet
from .cifar_resnet import CifarResNet
from .demo import DemoResNet
from .mobilenetv2 import MobileNetV2
from .resnet import BasicBlock, Bottleneck, ResNet
from .shufflenetv2 import WIDTHS, ShuffleNetV2
from .stem import STEMS, Stem
from .vgg import VGG16

_Build = Callable[..., nn.Module]

_IMAGENET: dict[str, _Build] = {
    "alexnet": AlexNet,
    "vgg16": partial(VGG16, batch_norm=False),
    "vgg16-bn": partial(VGG16, batch_norm=True),
    "resnet18": partial(ResNet, block=BasicBlock, depths=(2, 2, 2, 2)),
    "resnet34": partial(ResNet, block=BasicBlock, depths=(3, 4, 6, 3)),
    "resnet50": partial(ResNet, block=Bottleneck, depths=(3, 4, 6, 3)),
    "mobilenetv2": MobileNetV2,
    **{f"shufflenetv2-{size}": partial(ShuffleNetV2, size=size) for size in WIDTHS},
}
_SMALL: dict[str, _Build] = {
    # 6n + 2 layers (He et al., 1512.03385, §4.2)
    **{f"resnet{6 * depth + 2}": partial(CifarResNet, depth=depth) for depth in (3, 5, 7, 9)},
    "resnet-demo": DemoResNet,
    "resnet-demo-x2": partial(DemoResNet, width=32),
    "resnet-demo-x4": partial(DemoResNet, width=64),  # wide enough for integer kernels to be worth it
}
_BUILD = _IMAGENET | _SMALL


ALIASES = {
    "vgg16_bn": "vgg16-bn",
    "mobilenet_v2": "mobilenetv2",
    **{f"shufflenet_v2_{size}".replace(".", "_"): f"shufflenetv2-{size}" for size in WIDTHS},
}
"""torchvision's spelling → ours."""


def names(pattern: str | None = None) -> list[str]:
    """The names that `create` takes, sorted: the networks of this package, or those that match a pattern.

    Args:
        pattern: `resnet*`; `timm:mobilenetv3*` or `torchvision:*` for the networks of these libraries.

    Raises:
        MissingExtra: the library is not installed.
    """
    if pattern is None:
        return sorted(_BUILD)
    if outside.is_outside(pattern):
        return outside.names(pattern)
    return sorted(fnmatch.filter(_BUILD, pattern))


def is_named(name: str) -> bool:
    """Whether `create` is to make it: a network of this package, in torchvision's spelling too, or of a library."""
    return name in _BUILD or name in ALIASES or outside.is_outside(name)


def create(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    stem: str = "auto",
    pretrained: bool = False,
    weights: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """A named network for images `[B, in_channels, H, W]`, giving logits `[B, num_classes]`.

    Args:
        name: one of `names()`, also as torchvision spells it; `timm:NAME` or `torchvision:NAME` with the extra of that
            name (`names("timm:*")` lists them).
        num_classes: number of logits; by default 10, of `timm:` and `torchvision:` what their weights tell apart.
        in_channels: 3 for colour, which is the default, 1 for grey images.
        stem: `imagenet` for images of about 224×224 pixels, `small` for 28×28 to 64×64 (fewer strides,
            so that something is left of the image), `auto` for what is usual for this network.
        pretrained: of `timm:` and `torchvision:`, start from the library's weights, from its cache on this machine or
            else from its server. With another `num_classes` the last layer starts anew.
        weights: a `.safetensors`, `.pth` or `.th` state dict to start from; torchvision's fit the
            `imagenet` form. Without it weights are random. With `pretrained` it is the file that would else be fetched.

    Returns:
        The network. Those with weights of a library know the size, mean and std of their images: see `preprocessing_of`.

    Raises:
        InputError: unknown name or stem, a number below 1, or `weights` that do not fit.
        InputTypeError: a number that is not an integer.
        CorruptFile: `weights` is damaged.
        MissingExtra: the library is not installed.
        OperationError: its weights are not on this machine and cannot be fetched.
    """
    for option, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value is not None:
            _check_count(option, value)
    if isinstance(name, str) and outside.is_outside(name):
        return _of_library(name, num_classes, in_channels, stem, weights, pretrained=pretrained)
    name = ALIASES.get(name, name)
    if name not in _BUILD:
        raise unknown("model", name, [*_BUILD, *ALIASES, "timm:NAME", "torchvision:NAME"])
    if pretrained:
        raise InputError(
            f"model {name!r} with pretrained=True", "networks of this package come without weights",
            f"pass weights=FILE, or take torchvision's: 'torchvision:{_SPELLED.get(name, name)}'",
        )  # fmt: skip
    chosen = _stem(name, stem)
    options = {"num_classes": num_classes or 10, "in_channels": in_channels or 3}
    model = _BUILD[name](**options, stem=chosen)
    if weights is not None:
        _load(model, weights)
    set_origin(model, name, {**options, "stem": chosen})
    return model


_SPELLED = {ours: theirs for theirs, ours in ALIASES.items()}


def _of_library(
    name: str, num_classes: int | None, in_channels: int | None, stem: str, weights: Any, *, pretrained: bool
) -> nn.Module:
    if stem != "auto":
        raise InputError(
            f"model {name!r} with stem={stem!r}", "it has no other first layers", "leave stem out"
        )
    model = outside.create(
        name, num_classes=num_classes, in_channels=in_channels, pretrained=pretrained, weights=weights
    )
    if weights is not None and not pretrained:
        _load(model, weights)
    return model


def _stem(name: str, stem: str) -> Stem:
    if stem == "auto":
        return "imagenet" if name in _IMAGENET else "small"
    for choice in STEMS:
        if stem == choice:
            return choice
    raise unknown("stem", stem, ("auto", *STEMS))


def _check_count(option: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputTypeError(f"{option} {value!r}", "it is not an integer", "pass a whole number")
    if value < 1:
        raise InputError(f"{option} {value}", "it is below 1", "pass 1 or more")


def _load(model: nn.Module, path: str | os.PathLike[str]) -> None:
    tensors, document = files.read_tensors(path)
    if document is not None and document.get("steps"):
        raise InputError(
            str(path), "it holds a compressed network, not plain weights", "read it with pintsize.load(path)"
        )
    # Checkpoints from before PyTorch 0.4.1 do not have the batch counters, which no inference reads.
    state = model.state_dict()
    counters = {key: state[key] for key in state if key.endswith(".num_batches_tracked")}
    files.load_tensors(model, counters | tensors, source=str(path))


for _name in _BUILD:
    files.NETWORKS.add(_name, partial(create, _name))
for _prefix in outside.LIBRARIES:
    files.NETWORKS.add(f"{_prefix}:", outside.rebuilt)
