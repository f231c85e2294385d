"""The `.pte` writer: for ExecuTorch's XNNPACK backend, with the model's own scales."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from ...data.batches import rows
from ...errors import InputError, UnsupportedOp
from ..capture import captured, told_in_one_line
from ..onnx import writer as onnx
from ..onnx.trace import check_forward, evaluating
from ..options import ExportInfo, Made, Options
from ..pint import seal
from ..rewrites import rewritten
from .runtime import KEY, quiet, require


def make(model: nn.Module, path: Path, options: Options) -> Made:
    """`model` as one `.pte` file; see `pintsize.export`.

    Convolutions and linear layers with quantized inputs, weights and results run in XNNPACK's 8-bit
    kernels (weights of fewer bits are stored in 8, which the format has); all else runs in float32. The
    file takes one image at a time, or with `dynamic_batch=False` the example's batch.
    """
    require()
    if options.opset is not None:
        raise InputError(f"opset for {path}", "only ONNX has opsets", "leave it out")
    if options.open - {"batch"}:
        raise InputError(
            f"dynamic={sorted(options.open)} for {path}",
            "a .pte file takes images of one size",
            "export it for each size",
        )
    given = options.args(model)
    first = next(leaf.shape for leaf in tree_leaves(given) if isinstance(leaf, Tensor))
    args = onnx.float_args(rows(given, 0, 1) if 0 in options.open_of(0, first) else given)
    with evaluating(model), torch.no_grad(), quiet():
        target = onnx.deployed(model, options)
        told = onnx.metadata(model, options, check_forward(target, args))
        made, integer_weights = content(target, args, told)
    sealed = seal.seal_tail(made)
    details = {"integer_weights": integer_weights}
    shape = next(tuple(leaf.shape) for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
    info = ExportInfo(path, "executorch", len(sealed), shape, details=details)
    return Made({path: sealed}, info, target, args, told)


def content(model: nn.Module, args: tuple[Any, ...], told: dict[str, str]) -> tuple[bytes, bool]:
    """The content of the file, and whether XNNPACK took the quantized weights as integers.

    Raises:
        OperationError: torch.export or ExecuTorch does not understand the network.
    """
    with told_in_one_line(
        f"export of {type(model).__name__} to ExecuTorch",
        "it cannot be lowered",
        "write that part with other operations and without control flow on values, or export to .onnx",
    ):
        try:
            return _lowered(model, args, told, integer_weights=True), True
        except RuntimeError as error:
            if "dequantize_per_channel" not in str(error):
                raise
        return _lowered(
            model, args, told, integer_weights=False
        ), False  # a layer that XNNPACK has not in integers


def _lowered(
    model: nn.Module, args: tuple[Any, ...], told: dict[str, str], *, integer_weights: bool
) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from .graph import largest_alone, lower_quantizers, split_to_slices
    from .layers import lines_as_images, parameters_for_each_call, quantize_behind_moves, store_constants

    module = rewritten(captured(model, args), exact_scales=False).module()
    assert isinstance(module, fx.GraphModule)
    store_constants(module)
    split_to_slices(module)
    largest_alone(module)
    quantize_behind_moves(module)
    lines_as_images(module)
    parameters_for_each_call(module)
    lower_quantizers(module, integer_weights=integer_weights)
    program = to_edge_transform_and_lower(
        captured(module, args),
        partitioner=[XnnpackPartitioner()],
        constant_methods={KEY: json.dumps(told)},
    )
    lowered = program.to_executorch()
    _check_kernels(lowered.executorch_program)
    written = bytes(lowered.buffer)
    _check_loads(written)
    return written


def _check_loads(written: bytes) -> None:
    """Refuse what XNNPACK was given by its own partitioner, but does not take.

    Raises:
        UnsupportedOp: the program cannot be loaded.
    """
    from executorch.runtime import Runtime

    try:
        Runtime.get().load_program(written).load_method("forward")
    except RuntimeError as error:
        raise UnsupportedOp(
            "the network as a .pte file",
            f"XNNPACK refuses an operation that ExecuTorch has chosen it for ({error}; its log names the operation)",
            "leave the layer there in floating point, or export to .onnx or .xml",
        ) from error


def _check_kernels(program: Any) -> None:
    """Refuse what neither XNNPACK nor ExecuTorch's own kernels compute: such a file could not be opened.

    Raises:
        UnsupportedOp: the program calls such an operation.
    """
    from executorch.runtime import Runtime

    known = Runtime.get().operator_registry.operator_names
    for plan in program.execution_plan:
        for operator in plan.operators:
            name = f"{operator.name}.{operator.overload}" if operator.overload else operator.name
            if name not in known:
                raise UnsupportedOp(
                    f"{operator.name.removeprefix('aten::')} in a .pte file",
                    "neither XNNPACK nor ExecuTorch has a kernel for it",
                    "write it with other operations, or export to .onnx or .xml",
                )
