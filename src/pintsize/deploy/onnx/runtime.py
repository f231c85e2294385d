"""ONNX Runtime on the CPU: run a file, and see which of its nodes run in integers."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from ...errors import CorruptFile, InputError, OperationError
from ..instruction_sets import has_vnni, lacking, tell
from ..pint import seal
from ..runtime import Array, Closing, Shape, as_arrays, like_input
from .paths import check_paths

_HEAVY = {
    "Conv",
    "FusedConv",
    "NhwcConv",
    "NhwcFusedConv",
    "ConvTranspose",
    "Gemm",
    "FusedGemm",
    "MatMul",
    "FusedMatMul",
}
_INTEGER = {"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm"}
_ERRORS_ONLY = 3


class OnnxRuntime(Closing):
    """An `.onnx` file in ONNX Runtime, on the CPU, nodes one after another."""

    backend = "onnxruntime"

    def __init__(self, path: Path, *, threads: int) -> None:
        seal.check(path)
        self.path, self.threads = path, threads
        self._session: Any = _session(path, threads=threads)
        told = self._session.get_modelmeta().custom_metadata_map
        self.structure = json.loads(told.get("pintsize.outputs", "null"))
        if lacking(told.get("pintsize.target")):
            self.machine = tell(
                path,
                "made for a CPU with VNNI, which this one has not: it runs exactly here, by slower kernels, and elsewhere "
                "only with session.x64quantprecision=1; quantize(reduce_range=True) makes files that need neither",
            )
        self.input_names = [value.name for value in self._session.get_inputs()]
        self._shapes: list[Shape] = [
            tuple(size if isinstance(size, int) else None for size in value.shape)
            for value in self._session.get_inputs()
        ]
        self._kinds = [_kind(value.type) for value in self._session.get_inputs()]
        self.input_shape = self._shapes[0] if self._shapes else ()

    def __call__(self, *inputs: Array) -> Any:
        """Run the network on float32 arrays or tensors [B, …]."""
        if self._session is None:
            raise InputError(str(self.path), "this runtime has been closed", "open it again")
        arrays = as_arrays(inputs, self._shapes, str(self.path), self._kinds)
        outputs = self._session.run(None, dict(zip(self.input_names, arrays, strict=True)))
        return like_input(outputs, inputs[0])

    def integer_nodes(self) -> dict[str, dict[str, int]]:
        """Read from the graph that ONNX Runtime has optimised."""
        import onnx

        with tempfile.TemporaryDirectory() as folder:
            optimised = Path(folder) / "optimised.onnx"
            _session(self.path, threads=1, optimised=optimised)
            nodes = onnx.load(optimised).graph.node
        integer = Counter(
            node.op_type for node in nodes if node.op_type.startswith("QLinear") or node.op_type in _INTEGER
        )
        floating = Counter(node.op_type for node in nodes if node.op_type in _HEAVY)
        return {"integer": dict(sorted(integer.items())), "float": dict(sorted(floating.items()))}

    def close(self) -> None:
        """Free the session."""
        self._session = None


def _kind(written: str) -> str:
    """`tensor(float)` → float32, as NumPy calls it."""
    kind = written.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(kind, kind)


def _session(path: Path, *, threads: int, optimised: Path | None = None) -> Any:
    """An inference session.

    Raises:
        CorruptFile: it is no ONNX model, or one that contradicts itself.
        OperationError: it needs an operator that this ONNX Runtime does not have.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    check_paths(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ERRORS_ONLY
    # an idle session must not burn the cores that another one, or the caller, is using
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not has_vnni():  # its int8 products would saturate at 16 bits; this makes them exact, if slower
        options.add_session_config_entry("session.x64quantprecision", "1")
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except state.NotImplemented as error:
        raise OperationError(
            str(path),
            f"it needs what this ONNX Runtime does not have ({_first_line(error)})",
            "install a newer onnxruntime",
        ) from error
    except _refusals(state) as error:
        raise CorruptFile(
            str(path),
            f"ONNX Runtime cannot open it ({_first_line(error)})",
            "restore it from a copy, or export again",
        ) from error


def _refusals(state: Any) -> tuple[type[BaseException], ...]:
    """What ONNX Runtime raises for a file that it does not understand."""
    names = (
        "Fail",
        "InvalidProtobuf",
        "InvalidGraph",
        "InvalidArgument",
        "NoModel",
        "RuntimeException",
        "EPFail",
    )
    return (*(getattr(state, name) for name in names), RuntimeError, ValueError)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
