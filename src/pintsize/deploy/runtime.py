"""One way to open and run any exported file."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import InputError, InputTypeError, unknown
from ..registry import Registry

Array = TypeVar("Array", np.ndarray[Any, Any], Tensor)
Shape = tuple[int | None, ...]
"""None is a dimension of any size."""


@runtime_checkable
class Runtime(Protocol):
    """An opened file. Called with a batch of float32, it gives the network's output, of the same kind."""

    path: Path
    backend: str
    threads: int
    input_shape: Shape
    """Of the first input, batch first."""
    machine: str | None
    """What this machine lacks of the one that the file was made for; None: nothing."""
    input_names: Sequence[str]
    """In order; () where the file does not tell."""
    structure: Any
    """How the model's outputs are put together, see `structured`; None: one tensor, or a tuple of them."""

    def __call__(self, *inputs: Array) -> Any:
        """Run the network on NumPy arrays or on tensors; a tuple comes back if it has several outputs."""
        ...

    def integer_nodes(self) -> dict[str, dict[str, int]] | None:
        """What it computes in integers and what in float, see `pintsize.deploy.integer_nodes`; None: not told."""
        ...

    def close(self) -> None:
        """Free what the runtime holds; it cannot be called afterwards."""
        ...


@dataclass(frozen=True)
class Backend:
    """What opens files."""

    open: Callable[..., Runtime]
    """Called with a path and `threads=`."""
    suffixes: tuple[str, ...]


def _late(module: str, name: str) -> Callable[..., Runtime]:
    """A class of this package that is imported when it opens its first file."""

    def open_file(path: Path, *, threads: int) -> Runtime:
        found = importlib.import_module(f".{module}", __package__)
        runtime: Runtime = getattr(found, name)(path, threads=threads)
        return runtime

    return open_file


RUNTIMES: Registry[Backend] = Registry("backend")
"""By name; of several that open a suffix, the first is the default."""
RUNTIMES.add("onnxruntime", Backend(_late("onnx.runtime", "OnnxRuntime"), (".onnx",)))
RUNTIMES.add("openvino", Backend(_late("openvino.runtime", "OpenVino"), (".xml", ".onnx")))
RUNTIMES.add("executorch", Backend(_late("executorch.runtime", "ExecuTorch"), (".pte",)))
RUNTIMES.add("torch", Backend(_late("runtime", "TorchRuntime"), (".safetensors", ".pint")))


def open_runtime(
    path: str | os.PathLike[str] | nn.Module, *, backend: str | None = None, threads: int = 2
) -> Runtime:
    """Open an exported file to run it.

    Args:
        path: `.onnx`, `.xml` (OpenVINO), `.pte` (ExecuTorch), or `.safetensors` or `.pint` of a network
            from `pintsize.models`; a module is taken as it is.
        backend: "onnxruntime", "openvino", "executorch" or "torch"; by default the first of these that
            runs files of that suffix.
        threads: of the computation.

    Raises:
        InputError: no such file, backend or suffix; or threads < 1.
        CorruptFile: the file is damaged.
        MissingExtra: the backend is not installed.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads={threads!r}", "it is not a positive whole number", "pass 1 or more")
    if backend is not None:
        RUNTIMES.find(backend)
    if isinstance(path, nn.Module):
        if backend not in (None, "torch"):
            raise InputError(f"backend={backend!r} for a module", "it runs files", "export the module first")
        return TorchRuntime(path, threads=threads)
    path = Path(path)
    if not path.is_file():
        raise InputError(str(path), "there is no such file", "check the path")
    fitting = backends_of(path)
    if not fitting:
        raise unknown("file format", path.suffix, {s for one in RUNTIMES.values() for s in one.suffixes})
    backend = backend or fitting[0]
    if backend not in fitting:
        raise InputError(
            f"backend={backend!r}",
            f"it does not run {path.suffix} files",
            f"choose one of: {', '.join(sorted(fitting))}",
        )
    return RUNTIMES[backend].open(path, threads=threads)


def as_written(runtime: Runtime, on: bool = True) -> Runtime:
    """Let open dimensions stay open, as they are in the file; ours may fix them for speed, other programs do not."""
    if hasattr(runtime, "as_written"):
        runtime.as_written = on
    return runtime


def copied(inputs: Any) -> Any:
    """The inputs of a network that may write into them."""
    return tree_map_only(Tensor, Tensor.clone, inputs)


def file_inputs(inputs: Any, runtime: Runtime) -> list[Tensor]:
    """The tensors that a file takes for the inputs of its network, in the file's order."""
    only = inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs
    names = getattr(runtime, "input_names", None)
    if isinstance(only, Mapping) and names is not None and set(names) == set(only):
        inputs = [only[name] for name in names]
    return [leaf.detach().cpu() for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]


def backends_of(path: Path) -> list[str]:
    """The runtimes that open files of the path's suffix, the default one first."""
    return [name for name, one in RUNTIMES.items() if path.suffix in one.suffixes]


def opens(backend: str | None, path: str | os.PathLike[str]) -> bool:
    """Whether the runtime of that name runs files of the path's suffix."""
    return backend in backends_of(Path(path))


@contextlib.contextmanager
def open_runtimes(
    files: Mapping[str, str | os.PathLike[str]], *, backend: str | None = None, threads: int = 2
) -> Iterator[dict[str, Runtime]]:
    """Open several files by name, to run them in turns; all are closed at the end.

    Args, errors: as for `open_runtime`.
    """
    with contextlib.ExitStack() as opened:
        yield {
            name: opened.enter_context(
                contextlib.closing(open_runtime(path, backend=backend, threads=threads))
            )
            for name, path in files.items()
        }


def integer_nodes(
    path: str | os.PathLike[str], *, backend: str | None = None
) -> dict[str, dict[str, int]] | None:
    """What a runtime makes of a file, read from the graph that it really runs.

    Args:
        path: as for `open_runtime`.
        backend: as for `open_runtime`.

    Returns:
        "integer": how many nodes of which type compute in integers; "float": how many convolutions and
        matrix products are left in floating point. None for runtimes that do not tell: ExecuTorch, PyTorch.

    Raises:
        CorruptFile: the file is damaged.
    """
    with contextlib.closing(open_runtime(path, backend=backend, threads=1)) as runtime:
        return runtime.integer_nodes()


def size_of(path: Path) -> int:
    """Bytes of a file that is deployed; an OpenVINO `.xml` with its `.bin`."""
    pair = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    return sum(file.stat().st_size for file in pair)


def as_arrays(
    inputs: Sequence[Array], expected: Sequence[Shape], what: str, kinds: Sequence[str] = ()
) -> list[np.ndarray[Any, Any]]:
    """The inputs as contiguous arrays of `kinds`, float32 where that says nothing.

    Raises:
        InputTypeError: they are neither arrays nor tensors.
        InputError: their number, shape or dtype is not what the network takes.
    """
    if len(inputs) != len(expected):
        raise InputError(
            f"input of {what}", f"it takes {len(expected)} inputs, {len(inputs)} were given", "pass each once"
        )
    arrays = []
    for given, shape, want in zip(inputs, expected, kinds or ["float32"] * len(inputs), strict=True):
        if not isinstance(given, np.ndarray | Tensor):
            raise InputTypeError(
                f"input of type {type(given).__name__} for {what}",
                "it is no batch of images",
                f"pass a NumPy array or a tensor of {want}",
            )
        fits = len(given.shape) == len(shape) and all(
            asked is None or asked == size for asked, size in zip(shape, given.shape, strict=True)
        )
        kind = str(given.dtype).removeprefix("torch.")
        if not fits or kind != want:
            raise InputError(
                f"input of {what}",
                f"it takes {want} of shape {_text(shape)}, {kind} of shape {_text(given.shape)} was given",
                "bring the images to that size and type",
            )
        array = given.detach().cpu().numpy() if isinstance(given, Tensor) else given
        arrays.append(np.ascontiguousarray(array))
    return arrays


def like_input(outputs: Sequence[np.ndarray[Any, Any]], given: Any) -> Any:
    """Outputs of the kind of the input: one alone, or a tuple of several."""
    found = [torch.from_numpy(output) if isinstance(given, Tensor) else output for output in outputs]
    return found[0] if len(found) == 1 else tuple(found)


def _text(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"


class Closing:
    """`with open_runtime(…) as runtime:` closes it at the end."""

    machine: str | None = None
    input_names: Sequence[str] = ()
    structure: Any = None

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def integer_nodes(self) -> dict[str, dict[str, int]] | None:
        """What it computes in integers; None: it does not tell."""
        return None

    def close(self) -> None:
        """Free what the runtime holds."""
        raise NotImplementedError


class TorchRuntime(Closing):
    """PyTorch itself: the reference to compare the others with."""

    backend = "torch"

    def __init__(self, source: Path | nn.Module, *, threads: int) -> None:
        self.path = source if isinstance(source, Path) else Path()
        self.threads = threads
        self.input_shape: Shape = (None, None, None, None)
        self._model: nn.Module | None
        if isinstance(source, Path):
            from ..storage import network_file as files

            self._model = files.load(source)
        else:
            self._model = source

    def __call__(self, *inputs: Array) -> Any:
        """Run in eval mode, without gradients."""
        from .onnx.trace import evaluating

        if self._model is None:
            raise InputError(str(self.path), "this runtime has been closed", "open it again")
        if not all(isinstance(given, np.ndarray | Tensor) for given in inputs):
            raise InputTypeError(
                "input of the torch backend", "it is no batch of images", "pass an array or a tensor"
            )
        tensors = [torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in inputs]
        with evaluating(self._model), torch.no_grad(), _torch_threads(self.threads):
            output = self._model(*tensors)
        if isinstance(inputs[0], Tensor):
            return output
        return like_input(
            [leaf.numpy() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)], inputs[0]
        )

    def close(self) -> None:
        """Let go of the network."""
        self._model = None


@contextlib.contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if before != threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if before != threads:
            torch.set_num_threads(before)
