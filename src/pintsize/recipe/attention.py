"""The options of attention pruning, checked; the defaults are those of the report's authors."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..errors import InputError, InputTypeError, unknown
from .section import Chosen, section

_COUNTS = {
    "batch_size": (1, math.inf),
    "attention_epochs": (1, math.inf),
    "recovery_epochs": (1, math.inf),
    "late_recovery_epochs": (1, math.inf),
    "late_from": (0, math.inf),
    "average_over": (1, math.inf),
    "patience": (1, math.inf),
    "min_channels": (1, math.inf),
    "weights": (2, 8),
    "activations": (2, 8),
    "seed": (0, math.inf),
}
_LARGEST = sys.float_info.max
_NUMBERS = {
    "percentile": (0, 100),
    "threshold": (0, _LARGEST),
    "attention_weight": (0, _LARGEST),
    "alpha": (0, _LARGEST),
    "beta": (0, _LARGEST),
    "weight_penalty": (0, _LARGEST),
    "lr": (0, _LARGEST),
    "attention_lr": (0, _LARGEST),
    "target": (0, 1),
    "max_drop": (-100, 100),
    "distill_weight": (0, 1),
    "temperature": (1e-6, _LARGEST),
    "range_decay": (0, 1),
}
_ABOVE = {"threshold", "target"}
"""Their least value is not allowed itself: a threshold of 0 removes nothing, a target of 0 is never reached."""
_OPTIONAL = {"patience", "weights", "activations", "target", "max_drop"}
_FLAGS = ("keep_first", "distill", "augment")


def _option(default: Any, about: str) -> Any:
    return field(default=default, metadata={"help": about})


@section(
    "attention", title="Attention, instead of an amount to prune", place=31, way=True,
    about="Pruning by attention, instead of `prune`; with bits of its own also instead of `quantize`.",
    own=("attention_weight", "attention_lr", "attention_epochs"),
    renamed={"lr": "attention_weights_lr", "seed": None},
)  # fmt: skip
@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """Everything that decides an attention pruning, apart from model, data and teacher."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 (a recipe refuses keys it does not know)

    per: Literal["group", "convolution"] = _option(
        "group", "One vector per channel group (all of it can be cut) or per convolution."
    )
    at: Literal["convolution", "norm"] = _option(
        "convolution", "What is scaled: the convolution, or the batch norm behind it."
    )
    on: Literal["weights", "outputs"] = _option("weights", "Scale the weights, or the outputs of the layer.")
    normalize: Literal["max", "percentile", "none"] = _option(
        "max", "What a vector is divided by: its max, a percentile, or none."
    )
    percentile: float = _option(75.0, "Percentile to normalise to, in percent.")
    start: tuple[float, float] = _option((0.4, 0.9), "Ends of the uniform distribution of first values.")
    threshold: float = _option(1e-4, "A channel is removed when its normalised attention is below this.")
    price: Literal["channels", "params", "macs"] = _option(
        "channels", "What a unit weighs in the penalty: 1, its parameters, or its MACs."
    )
    attention_weight: float = _option(0.05, "Weight of the attention penalty in the loss.")
    alpha: float = _option(0.8, "Weight of the 1-norm of the attention.")
    beta: float = _option(0.2, "Weight of the 2-norm of the attention.")
    weight_penalty: float = _option(1e-3, "Weight of the penalty on the weights.")
    weight_norm: Literal["l1", "l2"] = _option(
        "l1", "Penalty on the weights: sum of magnitudes, or of the layers' 2-norms."
    )
    lr: float = _option(1e-4, "Learning rate of the weights (Adam).")
    attention_lr: float = _option(5e-4, "Learning rate of the attention (Adam).")
    batch_size: int = _option(256, "Images per step.")
    attention_epochs: int = _option(60, "Epochs in which the attention is trained.")
    recovery_epochs: int = _option(6, "Most epochs per attention epoch, its own among them.")
    late_recovery_epochs: int = _option(8, "The same from `late_from` on.")
    late_from: int = _option(30, "The attention epoch from which recovery may take longer.")
    average_over: int = _option(3, "Attention epochs whose best accuracies make the moving average.")
    target: float | None = _option(None, "Stop when this fraction of the parameters is left.")
    max_drop: float | None = _option(None, "Stop when validation accuracy fell by more points than this.")
    patience: int | None = _option(None, "Stop after so many attention epochs that removed nothing.")
    min_channels: int = _option(1, "Least units of a vector.")
    keep_first: bool = _option(
        True, "The first convolution, and all that is coupled to it, keeps its channels."
    )
    ignore: tuple[str, ...] = _option((), "List of patterns of layers that keep all their channels.")
    distill: bool = _option(False, "Learn from the dense network's outputs as well as from the labels.")
    distill_weight: float = _option(0.9, "Share of the dense network's outputs in the loss.")
    temperature: float = _option(4.0, "Softens both outputs before they are compared.")
    weights: int | None = _option(None, "Train with weights of 2 to 8 bits; null leaves them float.")
    activations: int | None = _option(None, "Train with activations of 2 to 8 bits; null leaves them float.")
    ranges: Literal["max", "mse"] = _option(
        "max", "Quantizer ranges: the largest value (Alg. 3), or that of least squared error."
    )
    range_decay: float = _option(0.9964, "Decay of the moving average of the activations' ranges.")
    augment: bool = _option(True, "Crop and flip at random.")
    precision: Literal["auto", "fp32", "bf16"] = _option(
        "auto", "Arithmetic of training: auto, fp32 or bf16."
    )
    seed: int = _option(0, "Of the first attention, the order of the images and their augmentation.")

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                raise unknown(name, getattr(self, name), get_args(kind))
        for limits in (_COUNTS, _NUMBERS):
            for name, (low, high) in limits.items():
                value = getattr(self, name)
                if value is not None or name not in _OPTIONAL:
                    _require(name, value, low, high, whole=limits is _COUNTS)
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise InputTypeError(
                    f"{name}={getattr(self, name)!r}", "it is neither True nor False", "pass one of them"
                )
        _require_start(self.start)
        _require_patterns(self.ignore)
        self._require_quantizable()

    def _require_quantizable(self) -> None:
        if (self.weights is None) != (self.activations is None):
            raise InputError(
                f"weights={self.weights}, activations={self.activations}",
                "training with quantization needs both",
                "pass both or neither",
            )
        if self.weights is not None and self.at == "norm":
            raise InputError(
                "at='norm' with quantization",
                "batch norms are folded into their convolutions there, so both places are one",
                "leave out at=",
            )

    def check_with(self, recipe: Chosen) -> None:
        """With bits it does what `recover` and `quantize` would."""
        if self.weights is not None and (recipe.quantize is not None or recipe.recover is not None):
            raise ValueError(
                "attention with weights and activations trains a quantized network: write quantize: null, and no recover"
            )

    def recovery(self, attention_epoch: int) -> int:
        """Most epochs of this attention epoch, counted from 0."""
        return self.recovery_epochs if attention_epoch < self.late_from else self.late_recovery_epochs

    @property
    def most_epochs(self) -> int:
        """Epochs if no recovery ends early."""
        return sum(self.recovery(epoch) for epoch in range(self.attention_epochs))


def _is_number(value: Any, *, whole: bool = False) -> bool:
    return isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)


def _require(option: str, value: Any, low: float, high: float, *, whole: bool) -> None:
    above = option in _ABOVE
    kind = "whole number" if whole else "number"
    if high < _LARGEST:
        limit = f"above {low:g}, at most {high:g}" if above else f"from {low:g} to {high:g}"
    else:
        limit = f"above {low:g}" if above else f"of at least {low:g}"
    if not _is_number(value, whole=whole):
        raise InputTypeError(f"{option}={value!r}", f"it is no {kind}", f"pass a {kind} {limit}")
    if not low <= value <= high or (above and value == low):
        infinite = isinstance(value, float) and not math.isfinite(value)
        cause = "it is not finite" if infinite else "it is out of range"
        raise InputError(f"{option}={value}", cause, f"pass a {kind} {limit}")


def _require_start(start: Any) -> None:
    remedy = "pass two rising numbers, e.g. (0.4, 0.9)"
    if not isinstance(start, tuple | list) or len(start) != 2 or not all(map(_is_number, start)):
        raise InputTypeError(f"start={start!r}", "it is no pair of numbers", remedy)
    low, high = start
    if not 0 <= low <= high <= 1 or high == 0:
        raise InputError(f"start={start}", "attention lies in [0, 1], and not all of it may be 0", remedy)


def _require_patterns(ignore: Any) -> None:
    if isinstance(ignore, str):  # its letters would be taken for patterns
        raise InputTypeError(
            f"ignore={ignore!r}", "it is one string", f"pass a list of patterns, e.g. [{ignore!r}]"
        )
    if not isinstance(ignore, tuple | list) or not all(isinstance(pattern, str) for pattern in ignore):
        raise InputTypeError(f"ignore={ignore!r}", "it is no list of strings", "pass a list of patterns")
