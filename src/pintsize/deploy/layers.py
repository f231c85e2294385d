"""Where a file first computes something else than its model: every layer's output, side by side."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..errors import InputError
from ..graph.inputs import as_args
from .onnx.trace import evaluating
from .pint import seal
from .runtime import as_written, open_runtime
from .tolerance import explained, outputs_of

DIVERGED = 0.1
"""Relative error of a layer that rounding does not explain, where nobody measured what it explains."""
_FUSED = {"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "PRelu"}
"""What runtimes compute in one kernel with the layer before it: its result in between is not to be had."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Place:
    """Where the output of a layer is in a file."""

    value: str
    scale: float | None = None
    """Set where it is read behind its quantizer: to read it before would make the runtime take another kernel."""
    zero: int = 0
    low: int = 0
    high: int = 0

    def of(self, output: Tensor) -> Tensor:
        """What is at that place if the layer gives `output`."""
        if self.scale is None:
            return output
        integers = (torch.round(output.float() / self.scale) + self.zero).clamp(self.low, self.high)
        return (integers - self.zero) * self.scale


def layer_errors(
    path: str | os.PathLike[str],
    model: nn.Module,
    images: Any,
    *,
    backend: str | None = None,
    threads: int = 2,
) -> dict[str, float]:
    """How far the output of each layer in an ONNX file is from that of the model.

    Args:
        path: an `.onnx` file that `pintsize.export` wrote: its values have the names of the modules.
        model: what was exported.
        images: [B, …], a few; or a tuple or a dict of all inputs.
        backend: "onnxruntime" or "openvino".
        threads: of the runtime.

    Returns:
        Module → ‖file − model‖ / ‖model‖, in the order of the file; behind its quantizer where it has one. Modules
        that run more than once, and those that are fused into others, are left out.

    Raises:
        InputError: the file is not ONNX.
    """
    args = as_args(images, model)
    places, found = _in_file(Path(path), model, args, backend, threads)
    expected = _outputs(model, args)
    return {name: _relative(found[name], places[name].of(expected[name])) for name in places}


def first_divergence(errors: Mapping[str, float], allowed: Mapping[str, float] | None = None) -> str | None:
    """The first layer whose error rounding does not explain, with its error; None if there is none.

    Args:
        errors: of `layer_errors`.
        allowed: what rounding explains, by layer; by default 0.1 for each.
    """
    allowed = allowed or {}
    return next(
        (
            f"{name} (relative error {error:.2g})"
            for name, error in errors.items()
            if error > allowed.get(name, DIVERGED)
        ),
        None,
    )


def first_beyond_rounding(
    path: Path, model: nn.Module, args: tuple[Any, ...], *, backend: str | None, threads: int = 2
) -> str | None:
    """The first layer of an ONNX file that differs from the model by more than rounding does; None if none can be told."""
    try:
        places, found = _in_file(path, model, args, backend, threads)

        def compute() -> list[Tensor]:
            given = _outputs(model, args)
            return [places[name].of(given[name]) for name in places]

        wanted = compute()
        errors = {name: _relative(found[name], one) for name, one in zip(places, wanted, strict=True)}
        allowed = explained(compute, wanted, _relative, enough=list(errors.values()))
        return first_divergence(errors, dict(zip(places, allowed, strict=True)))
    except Exception:  # the answer is a help in an error's text, and no reason for another error
        _log.debug("the layers of %s cannot be compared", path, exc_info=True)
        return None


def _in_file(
    path: Path, model: nn.Module, args: tuple[Any, ...], backend: str | None, threads: int
) -> tuple[dict[str, _Place], dict[str, Tensor]]:
    """Where each layer's output is in the file, and what the runtime gives there."""
    import onnx

    if path.suffix != ".onnx":
        raise InputError(str(path), "only .onnx files show their layers", "export to .onnx for that")
    seal.check(path)
    proto = onnx.load(path)
    places = _places(proto, set(_outputs(model, args)))
    ends = [value.name for value in proto.graph.output]
    for value in dict.fromkeys(place.value for place in places.values()):
        if value not in ends:
            ends.append(value)
            proto.graph.output.append(onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
    del proto.metadata_props[:]  # the checksum is that of the file without these outputs
    proto.producer_name = ""
    with tempfile.TemporaryDirectory() as folder:
        layers = Path(folder) / "layers.onnx"
        layers.write_bytes(proto.SerializeToString())
        runtime = as_written(open_runtime(layers, backend=backend, threads=threads))
        with contextlib.closing(runtime):
            given = dict(zip(ends, outputs_of(runtime(*outputs_of(args))), strict=True))
    return places, {name: given[place.value] for name, place in places.items()}


def _places(proto: Any, layers: set[str]) -> dict[str, _Place]:
    """Where the outputs of these layers are, in the order of the file."""
    from onnx import numpy_helper

    readers = defaultdict(list)
    for node in proto.graph.node:
        for name in node.input:
            readers[name].append(node)
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    results = {value.name for value in proto.graph.output}
    found: dict[str, _Place] = {}
    for name in (name for node in proto.graph.node for name in node.output if name in layers - results):
        quantize = next((node for node in readers[name] if node.op_type == "QuantizeLinear"), None)
        if quantize is None:
            behind = readers[name][0] if len(readers[name]) == 1 else None
            quantized = behind is not None and any(
                node.op_type == "QuantizeLinear" for node in readers[behind.output[0]]
            )
            if not (behind is not None and behind.op_type in _FUSED and quantized):
                found[name] = _Place(name)
            continue
        scale, zero = (numpy_helper.to_array(constants[key]) for key in quantize.input[1:3])
        behind = next(iter(readers[quantize.output[0]]), None)
        low, high = np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max
        if behind is not None and behind.op_type == "Clip":
            low, high = (int(numpy_helper.to_array(constants[key])) for key in behind.input[1:3])
            behind = next(iter(readers[behind.output[0]]), None)
        if behind is not None and behind.op_type == "DequantizeLinear" and scale.size == 1:
            found[name] = _Place(behind.output[0], float(scale), int(zero), int(low), int(high))
    return found


def _outputs(model: nn.Module, args: tuple[Any, ...]) -> dict[str, Tensor]:
    """The output of every module that runs once and gives one tensor."""
    found: dict[str, list[Any]] = {}

    def keep(name: str, out: Any) -> None:
        # at once: an activation behind it may write into it
        found.setdefault(name, []).append(out.detach().cpu().clone() if isinstance(out, Tensor) else None)

    handles = [
        module.register_forward_hook(lambda _m, _i, out, key=name: keep(key, out))
        for name, module in model.named_modules()
        if name
    ]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    copies = tree_map_only(Tensor, lambda x: x.to(device).clone(), args)
    try:
        with evaluating(model), torch.no_grad():
            model(*copies)
    finally:
        for handle in handles:
            handle.remove()
    return {name: out[0] for name, out in found.items() if len(out) == 1 and out[0] is not None}


def _relative(ours: Tensor, reference: Tensor) -> float:
    if ours.shape != reference.shape:
        if [size for size in ours.shape if size > 1] != [size for size in reference.shape if size > 1] and (
            ours.flatten(1).shape != reference.flatten(1).shape or ours.dim() == reference.dim()
        ):
            return float("inf")
        ours = ours.reshape(reference.shape)  # a view that the file takes earlier or later
    scale = float(reference.double().norm())
    error = float((ours.double() - reference.double()).norm()) / max(scale, 1e-12)
    return error if np.isfinite(error) else float("inf")
