"""Learning-rate schedules: pure functions of the step, so that there is no state to lose.

Symbols: `t` step counted from 0, `n` steps per epoch, `T` steps in all, `w` steps of warm-up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .options import Options

_ONE_CYCLE_RISE = 0.3
_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = 1e-4 / 25


@dataclass(frozen=True)
class _Course:
    n: int
    T: int
    w: int
    options: Options


def _constant(_t: int, _course: _Course) -> float:
    return 1.0


def _step(t: int, course: _Course) -> float:
    return float(course.options.gamma ** (t // course.n // course.options.step_size))


def _cosine(t: int, course: _Course) -> float:
    """SGDR without restarts (Loshchilov & Hutter, 1608.03983, eq. 5)."""
    return _between(1.0, 0.0, (t - course.w) / max(course.T - course.w, 1))


def _one_cycle(t: int, course: _Course) -> float:
    """Rise, then a long fall to nearly nothing (Smith & Topin, 1708.07120), both as half cosines."""
    top = course.w or round(_ONE_CYCLE_RISE * course.T)
    if t < top:
        return _between(_ONE_CYCLE_START, 1.0, t / top)
    return _between(1.0, _ONE_CYCLE_END, (t - top) / max(course.T - 1 - top, 1))


def _between(start: float, end: float, share: float) -> float:
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * share))


_BY_NAME: dict[str, Callable[[int, _Course], float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "one-cycle": _one_cycle,
    "step": _step,
}


def lr_at(step: int, steps_per_epoch: int, options: Options) -> float:
    """The learning rate of optimizer step `step`, counted from 0 over the whole training."""
    warmup = round(options.warmup_epochs * steps_per_epoch)
    if step < warmup and options.schedule != "one-cycle":
        return options.lr * (step + 1) / warmup
    course = _Course(steps_per_epoch, options.epochs * steps_per_epoch, warmup, options)
    return options.lr * _BY_NAME[options.schedule](step, course)
