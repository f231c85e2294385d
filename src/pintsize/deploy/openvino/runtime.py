"""OpenVINO on the CPU: run an `.onnx` file or OpenVINO's own `.xml` and `.bin`."""

from __future__ import annotations

import functools
import json
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CorruptFile, InputError, MissingExtra, OperationError, PintsizeError, UnsupportedOp
from ..instruction_sets import lacking, tell
from ..onnx.paths import check_paths
from ..pint import seal
from ..runtime import Array, Closing, Shape, as_arrays, like_input
from .graph import prepared

_KEPT = 4
"""Compiled networks, one for each batch size, that stay in memory."""
_HEAVY = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}
_INTEGER = {"i8", "u8"}
_NEITHER = {
    "Const",
    "Constant",
    "Input",
    "Parameter",
    "Output",
    "Result",
    "Reorder",
    "Reshape",
    "FakeQuantize",
}


class OpenVino(Closing):
    """A file in OpenVINO, on the CPU, in the precision that the file says.

    A network compiled for one shape is faster than one for any, so each batch size that is called is
    compiled once; the last few stay.
    """

    backend = "openvino"

    def __init__(self, path: Path, *, threads: int) -> None:
        package()
        self.path, self.threads = path, threads
        self._model: Any = _read(path)
        self._shapes: list[Shape] = [_shape(value.partial_shape) for value in self._model.inputs]
        self._kinds = [np.dtype(value.element_type.to_dtype()).name for value in self._model.inputs]
        self.input_names = [value.any_name for value in self._model.inputs]
        self.structure = json.loads(_told(self._model, "outputs") or "null")
        if lacking(_told(self._model, "target")):
            self.machine = tell(
                path,
                "made for a CPU with VNNI, which this one has not: sums of 8-bit products may saturate here; make the "
                "file with quantize(reduce_range=True), or run the .onnx in ONNX Runtime",
            )
        self.as_written = False
        """Compile open dimensions as open ones, as programs do that know nothing of ours."""
        self.input_shape = self._shapes[0] if self._shapes else ()
        self._requests: OrderedDict[tuple[tuple[int, ...], ...], Any] = OrderedDict()

    def __call__(self, *inputs: Array) -> Any:
        """Run the network on float32 arrays or tensors [B, …]."""
        if self._model is None:
            raise InputError(str(self.path), "this runtime has been closed", "open it again")
        arrays = as_arrays(inputs, self._shapes, str(self.path), self._kinds)
        found = self._request([array.shape for array in arrays]).infer(arrays, share_inputs=True)
        return like_input([np.array(found[number]) for number in range(len(self._model.outputs))], inputs[0])

    def integer_nodes(self) -> dict[str, dict[str, int]]:
        """Read from the network that OpenVINO has compiled."""
        shapes = [tuple(1 if size is None else size for size in shape) for shape in self._shapes]
        compiled = _compiled(self._model, shapes, self)
        found: dict[str, Counter[str]] = {"integer": Counter(), "float": Counter()}
        for node in compiled.get_runtime_model().get_ops():
            about = node.get_rt_info()
            kind, precision = (str(about[key].astype(str)) for key in ("layerType", "runtimePrecision"))
            if precision in _INTEGER and kind not in _NEITHER:
                found["integer"][kind] += 1
            elif kind in _HEAVY:
                found["float"][kind] += 1
        return {side: dict(sorted(counts.items())) for side, counts in found.items()}

    def close(self) -> None:
        """Free the network."""
        self._model = None
        self._requests.clear()

    def _request(self, shapes: list[tuple[int, ...]]) -> Any:
        key = () if self.as_written else tuple(shapes)
        if key in self._requests:
            self._requests.move_to_end(key)
            return self._requests[key]
        if len(self._requests) == _KEPT:
            self._requests.popitem(last=False)
        self._requests[key] = _compiled(self._model, shapes, self).create_infer_request()
        return self._requests[key]


def package() -> Any:
    """The package `openvino`.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("the OpenVINO runtime", "openvino") from error
    return openvino


@functools.cache
def core() -> Any:
    """OpenVINO's one entrance, for as long as the process lives.

    On CPUs with AMX the plug-in of each core gives the thread a stack for signals and frees it with the core, whichever
    thread that happens in and whichever core has given a stack since: the next signal, a Ctrl-C or a child's end, would
    find none.
    """
    return package().Core()


def read_onnx(content: bytes, what: str) -> Any:
    """The network of an ONNX file's content, in the form that OpenVINO computes exactly.

    Raises:
        UnsupportedOp: the file is whole, but has an operation that OpenVINO lacks.
    """
    import onnx

    try:
        return core().read_model(prepared(content))
    except RuntimeError as error:
        try:
            onnx.checker.check_model(content)
        except (onnx.checker.ValidationError, ValueError):
            raise error from None
        raise UnsupportedOp(
            what,
            f"OpenVINO has not all of its operations ({_reason(error)})",
            "write that part with other operations, or run the .onnx file in ONNX Runtime",
        ) from error


def _read(path: Path) -> Any:
    """The network of a file.

    Raises:
        CorruptFile: it is damaged.
    """
    from google.protobuf.message import DecodeError

    pair = seal.check_pair(path) if path.suffix == ".xml" else None
    if pair is None:
        seal.check(path)
        check_paths(path)
    try:
        return read_onnx(path.read_bytes(), str(path)) if pair is None else core().read_model(*pair)
    except (DecodeError, RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, PintsizeError):
            raise
        raise CorruptFile(
            str(path),
            f"OpenVINO cannot open it ({_reason(error)})",
            "restore it from a copy, or export again",
        ) from error


def _told(model: Any, key: str) -> str | None:
    """What the file says of itself under one key."""
    for entry in (["pintsize", key], ["framework", f"pintsize.{key}"]):
        if model.has_rt_info(entry):
            return str(model.get_rt_info(entry).astype(str))
    return None


def _compiled(model: Any, shapes: list[tuple[int, ...]], runtime: OpenVino) -> Any:
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": runtime.threads,
        "INFERENCE_PRECISION_HINT": "f32",  # else CPUs that have it compute in bfloat16
    }
    try:
        fixed = model
        if not runtime.as_written and any(value.partial_shape.is_dynamic for value in model.inputs):
            fixed = model.clone()
            fixed.reshape({index: list(shape) for index, shape in enumerate(shapes)})
        return core().compile_model(fixed, "CPU", settings)
    except RuntimeError as error:
        raise OperationError(
            str(runtime.path),
            f"OpenVINO cannot compile it for inputs of shape {shapes[0]} ({_reason(error)})",
            "run it in ONNX Runtime, or export it for that batch size",
        ) from error


def _shape(partial: Any) -> Shape:
    return tuple(None if size.is_dynamic else int(size.get_length()) for size in partial)


def _reason(error: BaseException) -> str:
    """The line of OpenVINO's message that says what went wrong: the others name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check "))]
    return (telling or lines or [type(error).__name__])[-1][:300]
