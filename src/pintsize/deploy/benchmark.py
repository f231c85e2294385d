"""Exported files side by side: latency in turns, bytes, peak memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..measure import side_by_side
from ..tables import Table, Tabular
from ..units import bytes_text, milliseconds_text
from .memory import peak_memory
from .runtime import open_runtime, size_of


@dataclass(frozen=True)
class Benchmark(Tabular):
    """What was measured of several files."""

    rows: list[dict[str, Any]]
    """One for each: name, file, backend, median_ms, p95_ms, bytes, peak_memory_bytes."""

    def __rich__(self) -> Table:
        """A line for each file."""
        cells = [
            (
                row["name"], milliseconds_text(row["median_ms"]), milliseconds_text(row["p95_ms"]),
                bytes_text(row["bytes"]), bytes_text(row["peak_memory_bytes"]),
            )
            for row in self.rows
        ]  # fmt: skip
        return Table(("", "median", "p95", "file", "peak memory"), cells)


def benchmark(
    files: Sequence[str],
    *,
    backend: str | None = None,
    batch: int = 1,
    warmup: int = 10,
    repeats: int = 50,
    threads: int = 2,
) -> Benchmark:
    """Time files in turns, on zeros.

    Args:
        files: exported files; `FILE@BACKEND` runs one in a runtime of its own.
        backend: runtime of the others; by default the one that fits the file.
        batch: images per call.
        warmup: calls of each that are not timed.
        repeats: calls of each that are.
        threads: of the runtimes.

    Raises:
        InputError: a batch below 1, or files that take different images.
    """
    if batch < 1:
        raise InputError(f"batch={batch}", "it is below 1", "pass --batch 1 or more")
    contenders = {str(Path(file)): _contender(file, backend) for file in files}
    runtimes = {
        name: open_runtime(path, backend=chosen, threads=threads)
        for name, (path, chosen) in contenders.items()
    }
    shapes = {tuple(runtime.input_shape)[1:] for runtime in runtimes.values()}
    if len(shapes) > 1:
        raise InputError("bench", f"the files take different images: {sorted(shapes)}", "time them apart")
    images = np.zeros((batch, *(size or 1 for size in shapes.pop())), dtype=np.float32)
    times = side_by_side(runtimes, images, warmup=warmup, repeats=repeats, threads=threads)
    rows = []
    for name, timed in times.items():
        path, chosen = contenders[name]
        rows.append(
            {
                "name": name,
                "file": path,
                "backend": runtimes[name].backend,
                "median_ms": timed.median_ms,
                "p95_ms": timed.p95_ms,
                "bytes": size_of(path),
                "peak_memory_bytes": peak_memory(path, backend=chosen, threads=threads, batch=batch),
            }
        )
    return Benchmark(rows)


def _contender(text: str, backend: str | None) -> tuple[Path, str | None]:
    """The file and the runtime that `FILE` or `FILE@BACKEND` names; a file that has such a name comes first."""
    path, at, chosen = text.rpartition("@")
    return (Path(text), backend) if not at or Path(text).exists() else (Path(path), chosen)
