"""torchvision's networks by name: `torchvision:resnet50`, `torchvision:deeplabv3_mobilenet_v3_large`.

Heads that help in training alone (GoogLeNet's, Inception's, those of segmentation) are left out.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..storage import network_file as files
from ..storage.preprocessing import Preprocessing
from .outside import imported, no_weights, not_fetched

_FIXED = {"weights_backbone": None, "aux_logits": False, "aux_loss": False, "init_weights": True}
"""Of what a network is made with, where it has such an option: nothing is fetched, and nothing left for torchvision to
decide by whether there are weights."""
_IMAGENET_INPUTS = {"googlenet", "inception_v3"}
"""Their weights come from a network with inputs from -1 to 1, which these make of the others' themselves."""
_TRAINING_HEADS = ("aux1.", "aux2.", "AuxLogits.", "aux_classifier.")


def names() -> list[str]:
    """All but those of torch's own quantization, which nothing here reads."""
    return [name for name in _models().list_models() if not name.startswith("quantized_")]


def knows(name: str) -> bool:
    """Whether there is one of this name."""
    return name in names()


def expected(name: str) -> Preprocessing | None:
    """Of its default weights; None for detectors, which scale and normalise images themselves, and for videos."""
    weights = _weights(name)
    how = None if weights is None else weights.transforms()
    if how is None or len(getattr(how, "mean", ())) != 3 or not hasattr(how, "resize_size"):
        return None
    if len(how.resize_size) != 1 or len(getattr(how, "crop_size", how.resize_size)) != 1:
        return None  # of videos
    side = getattr(how, "crop_size", how.resize_size)[0]
    return Preprocessing(
        (side, side), tuple(how.mean), tuple(how.std), side / how.resize_size[0], how.interpolation.value,
        len(weights.meta["categories"]),
    )  # fmt: skip


def build(name: str, *, num_classes: int | None, in_channels: int) -> nn.Module:
    """With random weights.

    Raises:
        InputError: it takes images of three channels alone.
    """
    taken = inspect.signature(_models().get_model_builder(name)).parameters
    options: dict[str, Any] = {option: value for option, value in _FIXED.items() if option in taken}
    if name in _IMAGENET_INPUTS:
        options |= {"aux_logits": False, "init_weights": True, "transform_input": in_channels == 3}
    if name.startswith("vit_") and (trained := _weights(name)) is not None:
        options["image_size"] = trained.meta["min_size"][0]  # its embeddings are made for one size
    if num_classes is not None:
        options["num_classes"] = num_classes
    model: nn.Module = _models().get_model(name, weights=None, **options)
    if in_channels != 3:
        _take_channels(model, name, in_channels)
    return model


def pretrain(
    name: str, *, num_classes: int | None, in_channels: int, weights: str | os.PathLike[str] | None
) -> nn.Module:
    """With torchvision's default weights, from its cache (`TORCH_HOME`) or its server, or from a file in its layout.

    For other classes the layers that do not fit start anew; kernels for colours are summed for grey images, else repeated.

    Raises:
        InputError: there are no such weights, or the file does not fit.
        OperationError: they cannot be fetched.
    """
    if weights is None:
        source = _weights(name)
        if source is None:
            raise no_weights(f"torchvision:{name}")
        try:
            tensors: Mapping[str, Tensor] = source.get_state_dict(progress=False, check_hash=True)
        except Exception as error:
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            raise not_fetched(f"torchvision:{name}", error, f"{source.url} (kept in {folder})") from error
    else:
        tensors, _ = files.read_tensors(weights)
    model = build(name, num_classes=num_classes, in_channels=in_channels)
    own = model.state_dict()
    fitting = {
        key: tensor for key, tensor in tensors.items() if key in own or not key.startswith(_TRAINING_HEADS)
    }
    first = _first(model)
    if first is not None and in_channels != 3 and f"{first}.weight" in fitting:
        fitting[f"{first}.weight"] = _of_channels(fitting[f"{first}.weight"], in_channels)
    told = _weights(name)
    others = (
        told is not None and num_classes is not None and num_classes != len(told.meta.get("categories", ()))
    )
    if others:  # the head that is there starts anew
        fitting = {
            key: own[key] if key in own and own[key].shape != tensor.shape else tensor
            for key, tensor in fitting.items()
        }
    files.load_tensors(model, fitting, source=str(weights or f"weights of torchvision:{name}"))
    return model


def _models() -> Any:
    imported("torchvision")
    return imported("torchvision.models")


def _weights(name: str) -> Any:
    """Its default weights, or None."""
    try:
        return _models().get_model_weights(name).DEFAULT
    except (AttributeError, ValueError):
        return None


def _first(model: nn.Module) -> str | None:
    """The first convolution."""
    return next((name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)), None)


def _take_channels(model: nn.Module, name: str, channels: int) -> None:
    """Exchange the first convolution for one that takes so many."""
    first = _first(model)
    conv = None if first is None else model.get_submodule(first)
    if (
        hasattr(model, "transform")
        or not isinstance(conv, nn.Conv2d)
        or conv.in_channels != 3
        or conv.groups != 1
    ):
        raise InputError(
            f"model 'torchvision:{name}' with in_channels={channels}", "it takes images of three channels alone",
            "leave in_channels out, and give grey images three equal channels (channels='rgb')",
        )  # fmt: skip
    assert first is not None
    made = nn.Conv2d(
        channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,  # type: ignore[arg-type]
        bias=conv.bias is not None, padding_mode=conv.padding_mode,
    )  # fmt: skip
    model.set_submodule(first, made)


def _of_channels(kernel: Tensor, channels: int) -> Tensor:
    """A kernel [K, 3, …] for so many channels, as timm does it: summed for one, else repeated at the same total."""
    if kernel.shape[1] != 3 or channels == 3:
        return kernel
    if channels == 1:
        return kernel.sum(1, keepdim=True)
    repeated = kernel.repeat(1, -(-channels // 3), *[1] * (kernel.dim() - 2))[:, :channels]
    return repeated * (3 / channels)
