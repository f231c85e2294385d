"""timm's networks by name (Wightman, PyTorch Image Models): `timm:mobilenetv3_small_100`, with a tag for other weights."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from ..errors import InputError
from ..storage.preprocessing import Preprocessing
from .outside import imported, no_weights, not_fetched


def names() -> list[str]:
    """All, without tags."""
    found: list[str] = imported("timm").list_models()
    return found


def knows(name: str) -> bool:
    """Whether there is one of this name, with or without the tag of weights."""
    timm = imported("timm")
    architecture, dot, _ = name.partition(".")
    return architecture in timm.list_models() and (not dot or name in timm.list_models(pretrained=True))


def expected(name: str) -> Preprocessing | None:
    """Of the weights with this tag, by default those that timm takes."""
    timm = imported("timm")
    config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None:
        return None
    found: dict[str, Any] = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
    height, width = found["input_size"][1:]
    return Preprocessing(
        (height, width), tuple(found["mean"]), tuple(found["std"]), float(found["crop_pct"]), found["interpolation"],
        config.num_classes or None,
    )  # fmt: skip


def build(name: str, *, num_classes: int | None, in_channels: int) -> nn.Module:
    """With random weights."""
    model: nn.Module = imported("timm").create_model(name, in_chans=in_channels, **_classes(num_classes))
    return model


def pretrain(
    name: str, *, num_classes: int | None, in_channels: int, weights: str | os.PathLike[str] | None
) -> nn.Module:
    """With timm's weights, or those of a file in its layout.

    For other classes the last layer starts anew; for other channels timm sums or repeats the first kernel's.

    Raises:
        InputError: there are no such weights, or the file does not fit.
        OperationError: they cannot be fetched.
    """
    timm = imported("timm")
    given = dict[str, Any]() if weights is None else {"pretrained_cfg_overlay": {"file": os.fspath(weights)}}
    config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    if weights is None and (config is None or not config.has_weights):
        raise no_weights(f"timm:{name}")
    if weights is not None and not os.path.isfile(weights):
        raise InputError(str(weights), "there is no such file", "check the path")
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=True, in_chans=in_channels, **given, **_classes(num_classes)
        )
    except Exception as error:
        if weights is not None:
            raise InputError(
                str(weights),
                f"its weights do not fit timm:{name} ({type(error).__name__}: {str(error).strip().splitlines()[0]})",
                "pass a file in timm's own layout, of this network",
            ) from error
        where = config.hf_hub_id and f"https://huggingface.co/{config.hf_hub_id} (model.safetensors)"
        raise not_fetched(f"timm:{name}", error, where or config.url) from error
    return model


def _classes(num_classes: int | None) -> dict[str, int]:
    return {} if num_classes is None else {"num_classes": num_classes}
