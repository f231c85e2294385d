"""The names of the networks, and `create`."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from torch import nn

from pintsize.errors import InputError, InputTypeError, unknown
from pintsize.storage.record import set_origin

from ..storage import network_file as files
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


def names() -> list[str]:
    """The names that `create` takes, sorted."""
    return sorted(_BUILD)


def create(
    name: str,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    stem: str = "auto",
    weights: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """A named network for images `[B, in_channels, H, W]`, giving logits `[B, num_classes]`.

    Args:
        name: one of `names()`.
        num_classes: number of logits.
        in_channels: 3 for colour, 1 for grey images.
        stem: `imagenet` for images of about 224×224 pixels, `small` for 28×28 to 64×64 (fewer strides,
            so that something is left of the image), `auto` for what is usual for this network.
        weights: a `.safetensors`, `.pth` or `.th` state dict to start from; torchvision's fit the
            `imagenet` form. Without it weights are random.

    Raises:
        InputError: unknown name or stem, a number below 1, or `weights` that do not fit.
        InputTypeError: a number that is not an integer.
        CorruptFile: `weights` is damaged.
    """
    if name not in _BUILD:
        raise unknown("model", name, _BUILD)
    chosen = _stem(name, stem)
    options = {"num_classes": num_classes, "in_channels": in_channels}
    for option, value in options.items():
        _check_count(option, value)
    model = _BUILD[name](**options, stem=chosen)
    if weights is not None:
        _load(model, weights)
    set_origin(model, name, {**options, "stem": chosen})
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
