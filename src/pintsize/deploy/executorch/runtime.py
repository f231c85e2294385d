"""ExecuTorch on the CPU: run a `.pte` file, and read what it says about itself."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import CorruptFile, InputError, MissingExtra, OperationError
from ...storage.logs import silenced
from ..pint import seal
from ..runtime import Array, Closing, Shape, as_arrays, like_input

_FORWARD = "forward"
KEY = "pintsize"
"""Name of the method of a file that returns what it says about itself."""
_KINDS = {6: "float32", 4: "int64", 3: "int32", 11: "bool", 7: "float64", 0: "uint8"}
"""ExecuTorch's numbers of types."""
_TRIAL = """
import sys, torch
from executorch.runtime import Runtime
content = open(sys.argv[1], "rb").read()
program = Runtime.get().load_program(content)
method = program.load_method("forward")
inputs = [method.metadata.input_tensor_meta(number) for number in range(method.metadata.num_inputs())]
method.execute([torch.zeros(tuple(each.sizes())) for each in inputs])
"""
_TRIAL_SECONDS = 120
_BEYOND = 64
"""Numbers: XNNPACK reads up to 16 bytes behind the end of an input (`XNN_EXTRA_BYTES`), which may be no memory of ours."""


class ExecuTorch(Closing):
    """A `.pte` file in ExecuTorch, on the CPU.

    The file has a fixed number of images, usually one: a larger batch runs in pieces of that size.
    ExecuTorch has one pool of threads for the process, and a loaded method keeps to the pool that it was
    loaded with: files of different `threads` that take turns are loaded anew at each turn, and none is
    loaded while the pool is changed.
    """

    backend = "executorch"
    _opened: ClassVar[weakref.WeakSet[ExecuTorch]] = weakref.WeakSet()
    _pool = 0
    """Number of the process's pool of threads: a change of its size makes a new one."""

    def __init__(self, path: Path, *, threads: int) -> None:
        if not seal.check_tail(path):
            _try_out(path)
        self.path, self.threads = path, threads
        self._content: bytes | None = path.read_bytes()
        self._program: Any
        self._method: Any
        ExecuTorch._opened.add(self)
        self._load()
        self.structure = self.about().get("outputs")
        meta = self._method.metadata
        self._kinds = [
            _KINDS.get(meta.input_tensor_meta(number).dtype(), "float32")
            for number in range(meta.num_inputs())
        ]
        sizes = [tuple(meta.input_tensor_meta(number).sizes()) for number in range(meta.num_inputs())]
        self._piece = sizes[0][0] if sizes and sizes[0] else 1
        self._shapes: list[Shape] = [(None, *size[1:]) for size in sizes]
        self.input_shape = self._shapes[0] if self._shapes else ()

    def __call__(self, *inputs: Array) -> Any:
        """Run the network on float32 arrays or tensors [B, …], B a multiple of the file's own batch."""
        if self._content is None:
            raise InputError(str(self.path), "this runtime has been closed", "open it again")
        arrays = as_arrays(inputs, self._shapes, str(self.path), self._kinds)
        if len(arrays[0]) % self._piece or not len(arrays[0]):
            raise InputError(
                f"batch of {len(arrays[0])} images for {self.path}",
                f"it takes {self._piece} at once",
                "pass a multiple of that, or export it for that batch",
            )
        if (
            self._loaded_in != ExecuTorch._pool
            or self._library._threadpool_get_thread_count() != self.threads
        ):
            self._load()
        pieces = [
            self._execute([_with_room(torch.from_numpy(array[at : at + self._piece])) for array in arrays])
            for at in range(0, len(arrays[0]), self._piece)
        ]
        joined = [parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*pieces, strict=True)]
        return like_input([output.numpy() for output in joined], inputs[0])

    def about(self) -> dict[str, Any]:
        """What the file says of itself; nothing if it is not ours."""
        if KEY not in self._program.method_names:
            return {}
        told = json.loads(self._program.load_method(KEY).execute([])[0])
        return {key.removeprefix("pintsize."): json.loads(value) for key, value in told.items()}

    def close(self) -> None:
        """Free the program: the method before the program that it is of, and that before the bytes that it lies in."""
        self._unload()
        self._content = None

    __del__ = close

    def _unload(self) -> None:
        self._method = None
        self._program = None

    def _execute(self, tensors: list[Tensor]) -> list[Tensor]:
        try:
            return [output.clone() for output in self._method.execute(tensors)]
        except RuntimeError as error:
            raise OperationError(
                str(self.path), f"ExecuTorch cannot run it ({error})", "export it again with this version"
            ) from error

    def _load(self) -> None:
        """Load the program with a pool of the right size."""
        self._library = _portable_library()
        from executorch.runtime import Runtime

        self._unload()
        if self._library._threadpool_get_thread_count() != self.threads:
            for other in ExecuTorch._opened:
                other._unload()
            self._library._unsafe_reset_threadpool(self.threads)
            ExecuTorch._pool += 1
        self._loaded_in = ExecuTorch._pool
        try:
            self._program = Runtime.get().load_program(self._content)
            self._method = self._program.load_method(_FORWARD)
        except (RuntimeError, KeyError, ValueError) as error:
            raise CorruptFile(
                str(self.path),
                f"ExecuTorch cannot open it ({error})",
                "restore it from a copy, or export again",
            ) from error


def _with_room(x: Tensor) -> Tensor:
    """A copy of `x` that may be read a little beyond its end."""
    copy = x.new_zeros(x.numel() + _BEYOND)[: x.numel()].view(x.shape)
    return copy.copy_(x)


def _try_out(path: Path) -> None:
    """Open and run a file without a checksum in a process of its own: ExecuTorch ends the process at some damage.

    What it refuses in an orderly way is left to be refused again, with its reason.
    """
    try:
        done = subprocess.run(  # noqa: S603 (our own script)
            [sys.executable, "-c", _TRIAL, str(path)],
            capture_output=True,
            timeout=_TRIAL_SECONDS,
            check=False,
        )
        reason = f"signal {-done.returncode}" if done.returncode < 0 else None
    except subprocess.TimeoutExpired:
        reason = f"it does not end within {_TRIAL_SECONDS} s"
    if reason is not None:
        raise CorruptFile(
            str(path), f"it kills ExecuTorch ({reason})", "restore it from a copy, or export again"
        )


def about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file says about itself: version, record (packed), classes and so on; nothing if it is not ours."""
    with ExecuTorch(Path(path), threads=1) as runtime:
        told: dict[str, Any] = runtime.about()
    return told


def require() -> None:
    """Refuse to go on without ExecuTorch.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        with quiet():
            import executorch.runtime  # noqa: F401
    except ImportError as error:
        raise MissingExtra("ExecuTorch", "executorch") from error


def _portable_library() -> Any:
    require()
    from executorch.extension.pybindings import portable_lib

    return portable_lib


def quiet() -> contextlib.AbstractContextManager[None]:
    """Silence what ExecuTorch and torchao tell their own developers as they are imported."""
    return silenced("torch.utils._pytree", "torchao", "executorch", "torch.export", "root")
