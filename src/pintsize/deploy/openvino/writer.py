"""The `.xml` and `.bin` writer: the ONNX graph as OpenVINO reads it, in OpenVINO's own format."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from torch import nn

from ..onnx import writer as onnx
from ..options import Made, Options
from ..pint import seal
from .runtime import package, read_onnx


def make(model: nn.Module, path: Path, options: Options) -> Made:
    """`model` as OpenVINO's `path` (`.xml`) and, beside it, `.bin`; see `pintsize.export`.

    Each is to be written atomically. The checksum in the `.xml` covers both, so that halves of different
    exports are not taken for a network.
    """
    openvino = package()  # without it, no work is done
    exported = onnx.make(model, path, options)
    source = f"export of {type(model).__name__} to OpenVINO"
    network = read_onnx(exported.files[path], source)
    for key, value in exported.told.items():
        network.set_rt_info(value, key.split("."))
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(network, Path(folder) / "net.xml", compress_to_fp16=False)
        text, weights = ((Path(folder) / f"net.{suffix}").read_bytes() for suffix in ("xml", "bin"))
    sealed = seal.seal_pair(text, weights)
    info = replace(exported.info, format="openvino", bytes=len(sealed) + len(weights))
    return replace(exported, files={path.with_suffix(".bin"): weights, path: sealed}, info=info)
