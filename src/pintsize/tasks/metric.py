"""What a network is judged by: a number over all images, from records that are kept image by image.

Records make three things possible that a running sum does not: shares of several processes are put together, a
standard error is drawn from them, and images on which two networks differ are found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, InputTypeError, OperationError
from ..units import Scale
from .own import called

_DRAWS = 64
"""Bootstrap samples of a standard error: its own relative error is then 9 %."""


def resampled(count: int) -> Iterator[NDArray[np.int64]]:
    """The images of each bootstrap sample of `count` images: always the same draws."""
    generator = np.random.Generator(np.random.PCG64(0))
    for _ in range(_DRAWS):
        yield generator.integers(count, size=count)


class Metric:
    """Base of all metrics: `records` of each batch, and `value` of all records."""

    name: str = "metric"
    unit: str = ""
    """What stands behind its numbers: %, dB, px."""
    higher_is_better: bool = True

    @property
    def scale(self) -> Scale:
        """What its figures are, for all that tells, draws or ranks them."""
        return Scale(self.name, self.unit, self.higher_is_better)

    def records(self, outputs: Any, targets: Any) -> Sequence[Any] | Tensor:
        """What counts of each image of a batch, one entry for each; on the CPU, if it is no tensor."""
        raise NotImplementedError

    def value(self, records: Sequence[Any]) -> float:
        """The metric of all images."""
        raise NotImplementedError

    def resampler(self, records: Sequence[Any]) -> Callable[[NDArray[np.int64]], float]:
        """What gives the value of a bootstrap sample, by the numbers of its images; not a number where it has none."""
        return lambda chosen: self.value([records[i] for i in chosen])

    def standard_error(self, records: Sequence[Any]) -> float:
        """How far the value would scatter with other images of the same kind: bootstrap over images (Efron 1979)."""
        value = self.resampler(records)
        return _scatter(value(chosen) for chosen in resampled(len(records)))

    def drop(self, before: Sequence[Any], now: Sequence[Any]) -> tuple[float, float]:
        """How much worse records of the same images are, and the standard error of that, by bootstrap over images."""
        old, new = self.resampler(before), self.resampler(now)
        lost = self.worse(self.value(before), self.value(now))
        return lost, _scatter(self.worse(old(chosen), new(chosen)) for chosen in resampled(len(before)))

    def told(self, value: float) -> str:
        """A value with its unit."""
        return self.scale.told(value)

    def best(self, values: Sequence[float]) -> float:
        """The best of several."""
        return self.scale.best(values)

    def worse(self, before: float, now: float) -> float:
        """How much is lost, in the metric's units; below 0 if something is gained."""
        return self.scale.worse(before, now)


def _scatter(drawn: Iterable[float]) -> float:
    """Standard deviation of bootstrap samples; those without an image that the metric is defined for do not count."""
    defined = [value for value in drawn if math.isfinite(value)]
    return float(np.std(defined, ddof=1)) if len(defined) > 1 else 0.0


class Mean(Metric):
    """The mean over images of one number each.

    Args:
        name: of the metric.
        score: outputs and targets → one number for each image, [B].
        unit: of the value.
        higher_is_better: the direction.
        scale: of the mean: 100 for shares in percent.
    """

    def __init__(
        self,
        name: str,
        score: Callable[[Any, Any], Tensor],
        *,
        unit: str = "",
        higher_is_better: bool = True,
        scale: float = 1.0,
    ) -> None:
        self.name, self.unit, self.higher_is_better = name, unit, higher_is_better
        self._score, self._scale = score, scale

    def records(self, outputs: Any, targets: Any) -> Tensor:
        """The numbers of a batch."""
        return self._score(outputs, targets)

    def value(self, records: Sequence[Any]) -> float:
        """Their mean, scaled."""
        numbers = torch.as_tensor(records)
        return self._scale * float(numbers.double().sum()) / len(numbers)

    def drop(self, before: Sequence[Any], now: Sequence[Any]) -> tuple[float, float]:
        """The mean of the differences, and its standard error.

        Of an accuracy only images that one network alone gets right contribute (as in McNemar's test, 1947).
        """
        sign = self._scale if self.higher_is_better else -self._scale
        change = torch.as_tensor(before).double() - torch.as_tensor(now).double()
        return sign * float(change.mean()), self._scale * math.sqrt(
            float(change.var(correction=0)) / len(change)
        )

    def resampler(self, records: Sequence[Any]) -> Callable[[NDArray[np.int64]], float]:
        """By an index."""
        numbers = torch.as_tensor(records)
        return lambda chosen: self.value(numbers[torch.from_numpy(chosen)])  # type: ignore[arg-type]

    def standard_error(self, records: Sequence[Any]) -> float:
        """σ / √n."""
        numbers = torch.as_tensor(records).double()
        return self._scale * float(numbers.std(correction=min(1, len(numbers) - 1))) / math.sqrt(len(numbers))


class OfBatches(Metric):
    """A function of the outputs and targets of one batch: its mean over batches, each as its images count.

    A record is the batch's value, said again for each of its images.
    """

    def __init__(self, function: Callable[[Any, Any], Any], *, higher_is_better: bool = True) -> None:
        self.function, self.higher_is_better = function, higher_is_better
        self.name = getattr(function, "__name__", type(function).__name__).replace("_", " ").strip("<>")

    def records(self, outputs: Any, targets: Any) -> list[float]:
        """The value of a batch, for each of its images."""
        from ..data.batches import size

        found = called(self.function, f"metric {self.name!r}", outputs, targets)
        if isinstance(found, Tensor) and found.numel() == 1:
            found = found.item()
        if isinstance(found, bool) or not isinstance(found, int | float | np.number):
            raise InputTypeError(
                f"metric {self.name!r}",
                f"it returns {type(found).__name__}, not a number",
                "return one float for a batch of outputs and targets",
            )
        return [float(found)] * max(1, size(outputs) or size(targets))

    def value(self, records: Sequence[Any]) -> float:
        """The mean."""
        return float(np.mean(records))


class OfTorchmetrics(Metric):
    """A metric of torchmetrics, or any other with `update`, `compute` and `reset`; a record is a batch."""

    def __init__(self, metric: Any, *, higher_is_better: bool = True) -> None:
        self.metric, self.name = metric, type(metric).__name__
        told = getattr(metric, "higher_is_better", None)
        self.higher_is_better = higher_is_better if told is None else bool(told)

    def records(self, outputs: Any, targets: Any) -> list[Any]:
        """The batch, on the CPU."""
        from ..data.batches import moved

        return [(moved(outputs, "cpu"), moved(targets, "cpu"))]

    def value(self, records: Sequence[Any]) -> float:
        """The metric over these batches; its own state stays empty."""
        what = f"metric {self.name!r}"
        self.metric.reset()
        for outputs, targets in records:
            called(self.metric.update, what, outputs, targets)
        found = called(self.metric.compute, what)
        self.metric.reset()
        if not isinstance(found, Tensor) or found.numel() != 1:
            told = list(found) if isinstance(found, dict) else getattr(found, "shape", type(found).__name__)
            raise InputTypeError(
                f"metric {self.name!r}",
                f"it computes {told}, not one number",
                "pass one that averages over classes, or a ps.tasks.Metric that picks one number",
            )
        return float(found)


def as_metric(given: Any, *, higher_is_better: bool = True) -> Metric:
    """A metric from what a user passes: one of ours, of torchmetrics, or a function of outputs and targets.

    Raises:
        InputTypeError: it is none of them.
    """
    if isinstance(given, Metric):
        return given
    if isinstance(given, type):
        raise InputTypeError(
            f"metric {given.__name__}", "it is a class", f"pass one of it: {given.__name__}(…)"
        )
    if all(callable(getattr(given, name, None)) for name in ("update", "compute", "reset")):
        return OfTorchmetrics(given, higher_is_better=higher_is_better)
    if callable(given):
        return OfBatches(given, higher_is_better=higher_is_better)
    raise InputTypeError(
        f"metric of type {type(given).__name__}",
        "it is no metric",
        "pass a function of (outputs, targets), a metric of torchmetrics, or a ps.tasks.Metric",
    )


def joined(parts: Sequence[Any]) -> Sequence[Any]:
    """The records of several batches, or of several processes, on the CPU."""
    if parts and all(isinstance(part, Tensor) for part in parts):
        return torch.cat(list(parts)).cpu()  # type: ignore[return-value]
    return [record for part in parts for record in part]


def value_of(metric: Metric, records: Sequence[Any]) -> float:
    """The metric of all records, which must be a finite number.

    Raises:
        InputError: there are no images.
        OperationError: it is not finite.
    """
    if not len(records):
        raise InputError("split to evaluate on", "it has no images", "pass a split with at least one")
    value = metric.value(records)
    if not math.isfinite(value):
        raise OperationError(
            f"metric {metric.name!r}",
            f"it is {value} over {len(records)} images",
            "check that outputs and targets are finite, and that the metric is defined for these targets",
        )
    return value
