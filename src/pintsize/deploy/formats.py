"""`export`: one function, a writer for each suffix."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import InputError, InputTypeError, unknown
from .options import ExportInfo, Options

_WRITERS = {
    ".onnx": "onnx.writer",
    ".xml": "openvino.writer",
    ".pte": "executorch.writer",
    ".pint": "pint.format",
}
"""Suffix → module with `write(model, path, options) -> ExportInfo`."""


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    example: Any = None,
    opset: int | None = None,
    dynamic_batch: bool = True,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    include_normalization: bool = False,
    include_softmax: bool = False,
    licence: str | None = None,
) -> ExportInfo:
    """Write the file that is deployed; its suffix says which.

    The model is traced in eval mode and is unchanged afterwards. Quantized weights are stored as
    integers at their true width (8, 4 or 2 bits each).

    Args:
        model: any module, compressed or not, on any device.
        path: ends in `.onnx`; in `.xml` for OpenVINO's format (a `.bin` file is written beside it); in
            `.pte` for ExecuTorch; in `.pint` for the smallest file, which `pintsize.load` reads back exactly.
        example: an input batch, or a tuple of all inputs; may be left out for networks from
            `pintsize.models`, which are then exported for the image size their stem is made for.
        opset: of ONNX, 19 or later; by default the lowest that has the types the weights need.
        dynamic_batch: leave the batch dimension open; False fixes it to the example's.
        classes: names of the outputs, kept in the file.
        mean: of each input channel, of images in [0, 1]; kept in the file.
        std: standard deviations to match.
        include_normalization: put (x - mean) / std into the network: it then takes images in [0, 1].
        include_softmax: give probabilities instead of logits.
        licence: of the weights, kept in the file.

    Raises:
        InputError: another suffix, or an option that does not fit.
        OperationError: the network cannot be traced, is too large, or the file cannot be written (an
            older file of that name is then intact).
        UnsupportedOp: the format has no integer type for a quantizer.
    """
    if not isinstance(model, nn.Module):
        raise InputTypeError(
            f"model of type {type(model).__name__}", "it is not a network", "pass an nn.Module"
        )
    path = Path(path)
    if path.suffix not in _WRITERS:
        raise unknown("export format", path.suffix, _WRITERS)
    if path.is_dir():
        raise InputError(str(path), "it is a folder", "name a file in it")
    options = Options(
        example=example, opset=opset, dynamic_batch=dynamic_batch, classes=classes, mean=mean, std=std,
        include_normalization=include_normalization, include_softmax=include_softmax, licence=licence,
    )  # fmt: skip
    writer: Callable[[nn.Module, Path, Options], ExportInfo]
    writer = importlib.import_module(f".{_WRITERS[path.suffix]}", __package__).write
    return writer(model, path, options)
