"""`export`: one function, a writer for each suffix."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import InputError, InputTypeError
from ..registry import Registry
from ..storage.atomic import write_bytes
from ..storage.preprocessing import preprocessing_of
from .options import ExportInfo, Made, Options, program_of
from .proof import proved

WRITERS: Registry[Callable[[nn.Module, Path, Options], Made]] = Registry("export format")
"""Suffix → what makes the files, which are then proved and written."""


def _late(module: str) -> Callable[[nn.Module, Path, Options], Made]:
    """The `make` of a module of this package, imported when it makes its first file."""

    def make(model: nn.Module, path: Path, options: Options) -> Made:
        made: Made = importlib.import_module(f".{module}", __package__).make(model, path, options)
        return made

    return make


WRITERS.add(".onnx", _late("onnx.writer"))
WRITERS.add(".xml", _late("openvino.writer"))
WRITERS.add(".pte", _late("executorch.writer"))
WRITERS.add(".pint", _late("pint.format"))


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    example: Any = None,
    opset: int | None = None,
    dynamic_batch: bool = True,
    dynamic: Collection[str] | None = None,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    include_normalization: bool = False,
    include_softmax: bool = False,
    licence: str | None = None,
    check: bool = True,
) -> ExportInfo:
    """Write the file that is deployed; its suffix says which.

    The model is traced in eval mode and is unchanged afterwards. Quantized weights are stored as
    integers at their true width (8, 4 or 2 bits each).

    Before the file gets its name it is run: the example, in the runtime that the format is for, every output
    against the model's. That costs one forward of the model and opening the file once.

    Args:
        model: any module, compressed or not, on any device.
        path: ends in `.onnx`; in `.xml` for OpenVINO's format (a `.bin` file is written beside it); in
            `.pte` for ExecuTorch; in `.pint` for the smallest file, which `pintsize.load` reads back exactly.
        example: an input batch, a tuple of all inputs, or a dict of inputs, whose names the file keeps; may
            be left out for networks from `pintsize.models`, which are then exported for the image size their stem is
            made for.
        opset: of ONNX, 19 or later; by default the lowest that has the types the weights need.
        dynamic_batch: leave the batch dimension open; False fixes it to the example's. A network that was read from an
            .onnx file keeps the names, types and open dimensions of that file, unless `dynamic` says otherwise.
        dynamic: which dimensions of inputs [B, C, H, W] are left open, of "batch", "height" and "width", in place
            of `dynamic_batch`; the example's sizes are those that the file is checked with.
        classes: names of the outputs, kept in the file.
        mean: of each input channel, of images in [0, 1]; kept in the file. By default what the network's weights expect,
            where that is known (`timm:`, `torchvision:`).
        std: standard deviations to match.
        include_normalization: put (x - mean) / std into the network: it then takes images in [0, 1].
        include_softmax: give probabilities instead of logits.
        licence: of the weights, kept in the file.
        check: False writes the file without running it.

    Returns:
        What was written; its `checked` says in which runtime the file was run, or "not run" where the extra that
        the runtime comes with is not installed.

    Raises:
        InputError: another suffix, or an option that does not fit.
        OperationError: the network cannot be traced, is too large, or the file cannot be opened or written (an
            older file of that name is then intact).
        VerificationFailed: the file computes something else than the model, beyond rounding; it is not written, and
            the first layer that differs is named.
        UnsupportedOp: the format has no integer type for a quantizer.
    """
    if not isinstance(model, nn.Module):
        raise InputTypeError(
            f"model of type {type(model).__name__}", "it is not a network", "pass an nn.Module"
        )
    path = Path(path)
    if path.suffix not in WRITERS:
        raise InputError(
            f"export format {path.suffix!r}", "there is no such export format",
            f"choose one of: {', '.join(sorted(WRITERS))}",
        )  # fmt: skip
    if path.is_dir():
        raise InputError(str(path), "it is a folder", "name a file in it")
    known = preprocessing_of(model)
    if known is not None and mean is None and std is None:
        mean, std = known.mean, known.std
    options = Options(
        example=example, opset=opset, dynamic_batch=dynamic_batch, dynamic=dynamic, classes=classes, mean=mean, std=std,
        include_normalization=include_normalization, include_softmax=include_softmax, licence=licence,
        program=program_of(model),
    )  # fmt: skip
    made = WRITERS[path.suffix](model, path, options)
    info = proved(made) if check else made.info
    for file, content in made.files.items():
        write_bytes(file, content)
    return info
