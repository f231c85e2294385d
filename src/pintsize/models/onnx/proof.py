"""The proof: ONNX Runtime on the file, and the network, on the same inputs."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import OperationError
from .network import OnnxNetwork
from .program import Program
from .trials import random_inputs, tensors

NEAR_ONE = 2.4e-7
"""Two float32 spacings at 1: sigmoids of runtimes are as exact as that, and no more for small values."""
CLOSE = 1e-4
"""Of the largest value of an output."""
_ALIKE = 0.3
"""The same for a file of integers, whose roundings the network does not have."""


def batch_of(network: OnnxNetwork, sizes: dict[str, tuple[int, ...]], fixed: int) -> Program:
    """The program with `batch` None if it takes any number of images though the file has a fixed one."""
    twice = {name: (2 * shape[0], *shape[1:]) for name, shape in sizes.items()}
    args = tensors(network.inputs, random_inputs(network.inputs, twice, 0))
    program = dataclasses.replace(network.program, batch=fixed)
    with torch.no_grad():
        parts = [network._run(tuple(one[k : k + fixed] for one in args)) for k in (0, fixed)]
        try:
            whole = network._run(args)
        except Exception:
            return program
    for name, value in whole.items():
        apart = [part[name] for part in parts]
        if not apart[0].dim() or value.shape[0] != 2 * apart[0].shape[0]:
            return program
        if off(value, torch.cat(apart)) > CLOSE:
            return program
    return network.program


def prove(
    network: OnnxNetwork, path: Path, sizes: dict[str, tuple[int, ...]], given: tuple[Tensor, ...] | None
) -> None:
    """Compare every output on random inputs, and on those that are given.

    Raises:
        OperationError: ONNX Runtime refuses the file, or the network differs; the node is named.
    """
    session = _session(path)
    cases = [random_inputs(network.inputs, sizes, 1)]
    if given is not None:
        cases.append({port.name: one.numpy() for port, one in zip(network.inputs, given, strict=True)})
    quantized = bool(network.program.told.get("quantized"))
    worst = 0.0
    for arrays in cases:
        try:
            wanted = session.run(None, arrays)
        except Exception as error:
            raise OperationError(
                str(path),
                f"ONNX Runtime does not run it on {[list(a.shape) for a in arrays.values()]} "
                f"({str(error).splitlines()[0][:200]})",
                "pass example=, inputs that it takes",
            ) from error
        with torch.no_grad():
            found = network._run(tensors(network.inputs, arrays))
        for port, want in zip(network.outputs, wanted, strict=True):
            gap = off(found[port.name], torch.from_numpy(np.array(want)))
            worst = max(worst, gap)
            if not gap <= (_ALIKE if quantized else CLOSE):
                raise _differs(network, path, arrays, port.name, gap)
    network.program = dataclasses.replace(network.program, told={**network.program.told, "difference": worst})


def off(found: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest value; of another shape or type: infinite. Whole numbers: share that differs."""
    if found.shape != wanted.shape:
        return math.inf
    if not wanted.numel():
        return 0.0
    if not wanted.is_floating_point():
        return float((found != wanted).double().mean()) / 100
    if not wanted.isfinite().all():  # where the file gives infinity or no number, so must the network
        same = (found == wanted) | (found.isnan() & wanted.isnan())
        found, wanted = found.masked_fill(same, 0.0), wanted.masked_fill(same, 0.0)
    largest = float(wanted.abs().max())
    gap = float((found.detach().to(wanted.dtype) - wanted).abs().max())
    return max(gap - NEAR_ONE, 0.0) / max(largest, 1e-12) if math.isfinite(gap) else math.inf


def _session(path: Path, extra: Any = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    source = str(path) if extra is None else extra
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise OperationError(
            str(path),
            f"ONNX Runtime does not open it ({(str(error) or 'no reason').splitlines()[0][:200]})",
            "export it again, or pass check=False",
        ) from error


def _differs(
    network: OnnxNetwork, path: Path, arrays: dict[str, Any], name: str, gap: float
) -> OperationError:
    """The error that names the first node whose result is another."""
    told = f"output {name} is off by {gap:.1e}"
    try:
        node = _first(network, path, arrays)
    except Exception:
        node = None
    if node is not None:
        told += f", from node {node} on"
    return OperationError(
        str(path), f"the network differs from the file: {told}", "report this file as a defect of pintsize"
    )


def _first(network: OnnxNetwork, path: Path, arrays: dict[str, Any]) -> str | None:
    import onnx

    model = onnx.load(str(path))
    known = {name for node in model.graph.node for name in node.output}
    present = {value.name for value in model.graph.output}
    asked = [(name, step) for step in network.program.steps for name in step.outputs if name in known]
    model.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name, _ in asked if name not in present
    )
    session = _session(path, model.SerializeToString())
    wanted = dict(zip([o.name for o in session.get_outputs()], session.run(None, arrays), strict=True))
    with torch.no_grad():
        found = network._run(tensors(network.inputs, arrays), every=True)
    for name, step in asked:
        value = found[name]
        if isinstance(value, Tensor) and off(value, torch.from_numpy(np.array(wanted[name]))) > CLOSE:
            return step.node
    return None
