"""The `.xml` and `.bin` writer: the ONNX graph as OpenVINO reads it, in OpenVINO's own format."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn

from ...storage.atomic import write_bytes
from ..onnx import writer as onnx
from ..options import ExportInfo, Options
from ..pint import seal
from .runtime import package, read_onnx


def write(model: nn.Module, path: Path, options: Options) -> ExportInfo:
    """Write `model` as OpenVINO's `path` (`.xml`) and, beside it, `.bin`; see `pintsize.export`.

    Each is written atomically. The checksum in the `.xml` covers both, so that halves of different
    exports are not taken for a network.
    """
    openvino = package()
    content, shape, opset = onnx.content(model, path, options)
    network = read_onnx(openvino.Core(), content, f"export of {type(model).__name__} to OpenVINO")
    for key, value in onnx.metadata(model, options).items():
        network.set_rt_info(value, key.split("."))
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(network, Path(folder) / "net.xml", compress_to_fp16=False)
        text, weights = ((Path(folder) / f"net.{suffix}").read_bytes() for suffix in ("xml", "bin"))
    sealed = seal.seal_pair(text, weights)
    write_bytes(path.with_suffix(".bin"), weights)
    write_bytes(path, sealed)
    return ExportInfo(path, "openvino", len(sealed) + len(weights), shape, opset)
