"""Where a file first computes something else than its model: every layer's output, side by side."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from .onnx.trace import evaluating
from .pint import seal
from .runtime import open_runtime

DIVERGED = 0.1
"""Relative error of a layer that rounding does not explain."""


def layer_errors(
    path: str | os.PathLike[str],
    model: nn.Module,
    images: Tensor,
    *,
    backend: str | None = None,
    threads: int = 2,
) -> dict[str, float]:
    """How far the output of each layer in an ONNX file is from that of the model.

    Args:
        path: an `.onnx` file that `pintsize.export` wrote: its values have the names of the modules.
        model: what was exported.
        images: [B, …], a few.
        backend: "onnxruntime" or "openvino".
        threads: of the runtime.

    Returns:
        Module → ‖file − model‖ / ‖model‖, in the order of the file; modules that run more than once, and
        those that are fused into others, are left out.

    Raises:
        InputError: the file is not ONNX.
    """
    import onnx

    path = Path(path)
    if path.suffix != ".onnx":
        raise InputError(str(path), "only .onnx files show their layers", "export to .onnx for that")
    seal.check(path)
    proto = onnx.load(path)
    expected = _outputs(model, images)
    made = [name for node in proto.graph.node for name in node.output if name in expected]
    known = {value.name for value in proto.graph.output}
    for name in made:
        if name not in known:
            proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    del proto.metadata_props[:]  # the checksum is that of the file without these outputs
    proto.producer_name = ""
    names = [value.name for value in proto.graph.output]
    with tempfile.TemporaryDirectory() as folder:
        layers = Path(folder) / "layers.onnx"
        layers.write_bytes(proto.SerializeToString())
        with contextlib.closing(open_runtime(layers, backend=backend, threads=threads)) as runtime:
            found = runtime(images.cpu())
    given = dict(zip(names, found if isinstance(found, tuple) else (found,), strict=True))
    return {name: _relative(given[name], expected[name]) for name in made}


def first_divergence(errors: dict[str, float]) -> str | None:
    """The first layer whose error rounding does not explain, with its error; None if there is none."""
    return next(
        (f"{name} (relative error {error:.2g})" for name, error in errors.items() if error > DIVERGED), None
    )


def _outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The output of every module that runs once and gives one tensor."""
    found: dict[str, list[Any]] = {}
    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(
                module.register_forward_hook(
                    lambda _m, _i, out, key=name: found.setdefault(key, []).append(out)
                )
            )
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with evaluating(model), torch.no_grad():
            model(images.to(device))
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: out[0].cpu().clone()
        for name, out in found.items()
        if len(out) == 1 and isinstance(out[0], Tensor)
    }


def _relative(ours: Tensor, reference: Tensor) -> float:
    if ours.shape != reference.shape:
        return float("inf")
    scale = float(reference.double().norm())
    error = float((ours.double() - reference.double()).norm()) / max(scale, 1e-12)
    return error if np.isfinite(error) else float("inf")
