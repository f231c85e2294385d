"""A network, in a file or in memory, layer by layer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import InputError
from ..recipe.sides import sides
from ..registry import DISPLAYS
from . import tensor_layers
from .onnx_layers import onnx_layers
from .shown import Shown


@DISPLAYS.register("network")
def show(
    network: str | os.PathLike[str] | nn.Module,
    *,
    model: nn.Module | None = None,
    example: Any = None,
    image_size: int | str | tuple[int, int] | None = None,
) -> Shown:
    """List the layers of a network, in a file or in memory.

    Args:
        network: a file, `.safetensors` (or a plain state dict), `.onnx` or `.pint`, or a module.
        model: the plain network, for a file that is not of `pintsize.models`.
        example: an input batch [B, …], for the MACs; by default that of the file's own input (`.onnx`), or of
            the images that a network of `pintsize.models` is made for.
        image_size: side of the images, or height and width, instead of `example`.

    Raises:
        InputError: there is no such file, its suffix is another, it does not fit `model`, or its images have
            another size (`.onnx`).
        CorruptFile: it is damaged.
        OperationError: the network does not take `example`.
    """
    size = sides(image_size)
    if isinstance(network, nn.Module):
        return tensor_layers.of_module(network, example, size)
    file = Path(network)
    if not file.is_file():
        raise InputError(str(file), "there is no such file", "check the path")
    if file.suffix == ".onnx":
        layers, shape = onnx_layers(file)
        if size is not None and shape is not None and tuple(shape[-2:]) != size:
            raise InputError(
                f"image_size={image_size} for {file}",
                f"its images are {'×'.join(map(str, shape))}",
                "leave it out, or export the network for that size",
            )
        return Shown(str(file), file.stat().st_size, layers, shape)
    return tensor_layers.of_file(file, model, example, size)
