"""The options of a training, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pintsize.errors import InputError, InputTypeError, unknown

from .precision import PRECISIONS

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine", "one-cycle", "step")
KEEP = ("best", "last")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that decides which weights a training ends with, apart from model, data and callbacks."""

    epochs: int
    lr: float
    """Learning rate: the peak of the schedule."""
    optimizer: str
    momentum: float
    """Of SGD; the first beta of Adam and AdamW."""
    nesterov: bool
    weight_decay: float
    """Not applied to biases, norms and other parameters of fewer than two dimensions."""
    batch_size: int
    """Of all processes together."""
    schedule: str
    warmup_epochs: float
    """Epochs of linear rise from 0 to `lr`; for one-cycle 0 means 30 % of the training."""
    step_size: int
    """Epochs between two steps of the step schedule."""
    gamma: float
    """Factor of each step of the step schedule."""
    label_smoothing: float
    ema: float | None
    """Decay per step of the moving average of the weights; None for no average."""
    precision: str
    augment: bool
    seed: int
    distill_weight: float
    """Share of the teacher's term in the loss, 0 to 1."""
    temperature: float
    keep: str
    """Weights to end with: `last`, or `best` on the validation split."""
    patience: int | None
    """Epochs without a better one on the validation split after which the training ends."""

    def __post_init__(self) -> None:
        for kind, name, choices in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
            ("precision", self.precision, PRECISIONS),
            ("keep", self.keep, KEEP),
        ):
            if name not in choices:
                raise unknown(kind, name, choices)
        for option in ("epochs", "batch_size", "step_size", "seed", "patience"):
            if option != "patience" or self.patience is not None:
                _require_integer(option, getattr(self, option))
        inf = math.inf
        for option, low, high, open_ends in (
            ("epochs", 0, inf, ""),
            ("lr", 0, inf, "low"),
            ("momentum", 0, 1, "high"),
            ("weight_decay", 0, inf, ""),
            ("batch_size", 1, inf, ""),
            ("warmup_epochs", 0, self.epochs, ""),
            ("step_size", 1, inf, ""),
            ("gamma", 0, inf, "low"),
            ("label_smoothing", 0, 1, "high"),
            ("ema", 0, 1, "low high"),
            ("seed", 0, inf, ""),
            ("distill_weight", 0, 1, ""),
            ("temperature", 0, inf, "low"),
            ("patience", 1, inf, ""),
        ):
            _require_range(option, getattr(self, option), low, high, open_ends)
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise InputError(
                f"nesterov with optimizer {self.optimizer!r}, momentum {self.momentum}",
                "Nesterov's form exists only for SGD with momentum",
                "use optimizer='sgd' and momentum above 0, or nesterov=False",
            )


def _require_integer(option: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputTypeError(f"{option}={value!r}", "it is not an integer", "pass a whole number")


def _require_range(option: str, value: object, low: float, high: float, open_ends: str) -> None:
    if value is None and option in ("ema", "patience"):
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputTypeError(f"{option}={value!r}", "it is not a number", "pass a number")
    above = value > low if "low" in open_ends else value >= low
    below = value < high if "high" in open_ends else value <= high
    if not (above and below and math.isfinite(value)):
        left, right = (
            ("above" if "low" in open_ends else "at least"),
            ("below" if "high" in open_ends else "at most"),
        )
        limits = f"{left} {low}" + (f" and {right} {high}" if math.isfinite(high) else "")
        raise InputError(f"{option}={value}", "it is out of range", f"pass a finite number {limits}")
