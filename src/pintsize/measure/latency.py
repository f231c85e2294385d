"""How long one call takes, median and 95th percentile; contenders take turns, to see the same machine."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError, InputTypeError
from ..tables import Table, Tabular
from ..units import milliseconds_text


@dataclass(frozen=True)
class Latency(Tabular):
    """Times of one call."""

    median_ms: float
    p95_ms: float
    runs: tuple[float, ...] = field(repr=False)
    """Every timed call in milliseconds, in order."""
    batch: int = 1
    """Images per call."""
    threads: int = 2
    """Threads that PyTorch was given; a runtime has the number it was opened with."""

    def __rich__(self) -> Table:
        """Median and 95th percentile, and how they were measured."""
        row = (str(len(self.runs)), str(self.batch), str(self.threads))
        times = (milliseconds_text(self.median_ms), milliseconds_text(self.p95_ms))
        return Table(("median", "p95", "calls", "batch", "threads"), [(*times, *row)], words=0)


def latency(
    fn: Callable[..., Any], batch: Any, *, warmup: int = 10, repeats: int = 50, threads: int = 2
) -> Latency:
    """Time `fn(batch)`.

    Args:
        fn: a module (called in eval mode, without gradients), an opened runtime, or any callable.
        batch: what it takes: a tensor or array [B, …], or a tuple of arguments.
        warmup: calls that are not timed.
        repeats: calls that are.
        threads: of PyTorch while timing.

    Raises:
        InputError: a count is out of range.
        InputTypeError: `fn` cannot be called.
    """
    return side_by_side({"it": fn}, batch, warmup=warmup, repeats=repeats, threads=threads)["it"]


def side_by_side(
    contenders: Mapping[str, Callable[..., Any]],
    batch: Any,
    *,
    warmup: int = 10,
    repeats: int = 50,
    threads: int = 2,
) -> dict[str, Latency]:
    """Time several callables on the same batch, in turns A B A B …, so that a slow spell hits all alike.

    Args, errors: as for `latency`; `contenders` by name.
    """
    for option, value, least in (("warmup", warmup, 0), ("repeats", repeats, 1), ("threads", threads, 1)):
        if value < least:
            raise InputError(f"{option}={value}", f"it is below {least}", f"pass {option} ≥ {least}")
    if not contenders:
        raise InputError("side_by_side", "there is nothing to time", "pass {name: callable}")
    for name, fn in contenders.items():
        if not callable(fn):
            raise InputTypeError(
                f"contender '{name}' of type {type(fn).__name__}",
                "it cannot be called",
                "pass a module, an opened runtime or a function",
            )
    arguments = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with _quiet(contenders, threads):
        for turn in range(warmup + repeats):
            for name, fn in contenders.items():
                elapsed = _time(fn, arguments)
                if turn >= warmup:
                    times[name].append(elapsed)
    return {name: _summary(runs, _images(arguments[0]), threads) for name, runs in times.items()}


def _time(fn: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    on_gpu = isinstance(arguments[0], Tensor) and arguments[0].is_cuda
    start = time.perf_counter()
    fn(*arguments)
    if on_gpu:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def _images(argument: Any) -> int:
    shape = getattr(argument, "shape", ())
    return int(shape[0]) if shape else 1


def _summary(runs: list[float], batch: int, threads: int) -> Latency:
    return Latency(float(np.median(runs)), float(np.percentile(runs, 95)), tuple(runs), batch, threads)


@contextlib.contextmanager
def _quiet(contenders: Mapping[str, Callable[..., Any]], threads: int) -> Iterator[None]:
    """Fixed threads, eval mode, no gradients, no garbage collection; all as before afterwards."""
    modes = {m: m.training for fn in contenders.values() if isinstance(fn, nn.Module) for m in fn.modules()}
    threads_before, collecting = torch.get_num_threads(), gc.isenabled()
    try:
        torch.set_num_threads(threads)
        for module in modes:
            module.training = False
        gc.disable()
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(threads_before)
        for module, mode in modes.items():
            module.training = mode
        if collecting:
            gc.enable()
