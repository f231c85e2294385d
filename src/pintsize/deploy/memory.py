"""Peak memory of running a model file, in a process that does nothing else.

Run as `python -m pintsize.deploy.memory FILE …` it is that process, and prints its measurement as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, OperationError


@dataclass(frozen=True)
class PeakMemory:
    """Resident memory of a process that opened a file and ran it."""

    peak_bytes: int
    """The most it held, all told."""
    baseline_bytes: int
    """The most it held before it opened the file: Python and the imported runtime."""


def peak_memory(
    path: str | os.PathLike[str], *, backend: str | None = None, threads: int = 2, batch: int = 1
) -> int:
    """Bytes that a fresh process holds at most while it opens `path` and runs it; see `memory_use`."""
    return memory_use(path, backend=backend, threads=threads, batch=batch).peak_bytes


def memory_use(
    path: str | os.PathLike[str],
    *,
    backend: str | None = None,
    threads: int = 2,
    batch: int = 1,
    repeats: int = 3,
) -> PeakMemory:
    """Open `path` in a fresh process, run it on zeros, and report its peak memory with the baseline apart.

    Args:
        path: a file that `pintsize.open_runtime` opens.
        backend: as for `open_runtime`.
        threads: of the runtime.
        batch: images per call.
        repeats: calls.

    Raises:
        InputError: there is no such file.
        OperationError: the process failed, or the file takes images of any size; the cause is its last line.
    """
    if not Path(path).is_file():
        raise InputError(str(path), "there is no such file", "check the path")
    command = [
        sys.executable,
        "-m",
        "pintsize.deploy.memory",
        os.fspath(path),
        f"--threads={threads}",
        f"--batch={batch}",
        f"--repeats={repeats}",
        *([f"--backend={backend}"] if backend else []),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (our own module)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise OperationError(
            f"peak memory of {path}",
            f"the measuring process failed ({lines[-1]})",
            "open the file with pintsize.open_runtime to see the whole error",
        )
    measured = json.loads(done.stdout.splitlines()[-1])
    return PeakMemory(measured["peak_bytes"], measured["baseline_bytes"])


def high_water() -> int:
    """Most bytes this process has held.

    On Linux read from /proc: `ru_maxrss` survives exec, so there it would include the parent that started us.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _measure(path: str, backend: str | None, threads: int, batch: int, repeats: int) -> PeakMemory:
    import numpy as np

    from .runtime import open_runtime

    if backend in {None, "onnxruntime"} and path.endswith(".onnx"):
        import onnxruntime  # noqa: F401 (belongs to the baseline)
    baseline = high_water()
    runtime = open_runtime(path, backend=backend, threads=threads)
    shape = [size for size in runtime.input_shape[1:] if size is not None]
    if len(shape) != len(runtime.input_shape) - 1:
        raise InputError(
            path, f"its input {runtime.input_shape} has no fixed size", "export it for one image size"
        )
    images = np.zeros((batch, *shape), dtype=np.float32)
    for _ in range(repeats):
        runtime(images)
    runtime.close()
    return PeakMemory(high_water(), baseline)


def main() -> None:
    """Measure the file named on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--backend")
    for option in ("threads", "batch", "repeats"):
        parser.add_argument(f"--{option}", type=int, required=True)
    result = _measure(**vars(parser.parse_args()))
    sys.stdout.write(
        json.dumps({"peak_bytes": result.peak_bytes, "baseline_bytes": result.baseline_bytes}) + "\n"
    )


if __name__ == "__main__":
    main()
