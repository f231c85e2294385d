"""Numbers for each image: outputs and targets of the same shape, [B] or [B, D]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError, InputTypeError
from .metric import Mean, Metric
from .task import TASKS, Task

_LOSSES = {"mse": F.mse_loss, "l1": F.l1_loss, "smooth-l1": F.smooth_l1_loss}


@TASKS.register("regression")
class Regression(Task):
    """Mean squared error, or another; mean absolute error, or its root mean square.

    Args:
        loss: `mse`, `l1` or `smooth-l1`.
        metric: `mae` or `rmse`.
        unit: of the targets.
    """

    name = "regression"

    def __init__(self, loss: str = "mse", metric: str = "mae", unit: str = "") -> None:
        for what, given, known in (("loss", loss, _LOSSES), ("metric", metric, ("mae", "rmse"))):
            if given not in known:
                raise InputError(
                    f"{what}={given!r}", "regression has no such", f"choose from {', '.join(known)}"
                )
        super().__init__(
            metric=Mean("MAE", _absolute, unit=unit, higher_is_better=False)
            if metric == "mae"
            else RootMeanSquare(unit)
        )
        self._kind = loss

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Mean over images and numbers."""
        return _LOSSES[self._kind](*_alike(outputs, targets))

    def distill(self, outputs: Any, taught: Any, temperature: float) -> Tensor:
        """The loss with the teacher's outputs for targets."""
        return self.loss(outputs, taught)


class RootMeanSquare(Mean):
    """Root of the mean over images of the mean squared error."""

    def __init__(self, unit: str = "") -> None:
        super().__init__("RMSE", _squared, unit=unit, higher_is_better=False)

    def value(self, records: Sequence[Any]) -> float:
        """The root."""
        return float(super().value(records) ** 0.5)

    def drop(self, before: Sequence[Any], now: Sequence[Any]) -> tuple[float, float]:
        """Of roots, by bootstrap over images: the mean of the differences would be one of squares."""
        return Metric.drop(self, before, now)

    def standard_error(self, records: Sequence[Any]) -> float:
        """By the derivative of the root."""
        return super().standard_error(records) / (2 * max(self.value(records), 1e-12))


def _absolute(outputs: Any, targets: Any) -> Tensor:
    ours, truth = _alike(outputs, targets)
    return (ours - truth).abs().flatten(1).mean(1)


def _squared(outputs: Any, targets: Any) -> Tensor:
    ours, truth = _alike(outputs, targets)
    return (ours - truth).square().flatten(1).mean(1)


def _alike(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Outputs and targets as float [B, D]: [B] and [B, 1] mean the same.

    Raises:
        InputTypeError: they do not fit.
    """
    ours = torch.as_tensor(outputs).float()
    truth = torch.as_tensor(targets).to(ours.device).float()
    shapes = [tuple(one.shape) if one.dim() > 1 else (len(one), 1) for one in (ours, truth)]
    if shapes[0] != shapes[1]:
        raise InputTypeError(
            f"targets {list(truth.shape)}", f"the network gives {list(ours.shape)}",
            "give out numbers of the same shape",
        )  # fmt: skip
    return ours.reshape(shapes[0]), truth.reshape(shapes[1])
