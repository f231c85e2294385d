"""Numbers for people: 1.81 G, 44.7 MB, 2.9 ms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


def count_text(number: float) -> str:
    """Three significant digits with a decimal prefix: 11689512 → '11.7 M'."""
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit * 0.9995:
            return f"{_three(number / limit)} {prefix}"
    return str(int(number)) if number == int(number) else _three(number)


def bytes_text(number: float) -> str:
    """Decimal bytes: 470_000 → '470 kB'."""
    text = count_text(number)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def milliseconds_text(number: float) -> str:
    """Three significant digits: 0.7932 → '0.793 ms'."""
    return f"{_three(number)} ms"


def drop_text(drop: float, unit: str = "points", metric: str = "accuracy") -> str:
    """Points of a metric in percent, or units of another one, lost or gained: 3.667 → '3.67 points lost'."""
    text = f"{abs(drop):.2f}" if unit == "points" else _figure(abs(drop), 2)
    if float(text) == 0:
        return f"no {metric} lost" if unit == "points" else "nothing lost"
    return f"{text} {unit} {'lost' if drop > 0 else 'gained'}"


@dataclass(frozen=True)
class Scale:
    """What the figures of a task are: all that prints, plots, ranks or tabulates them asks it; by default accuracies."""

    metric: str = "accuracy"
    unit: str = "%"
    higher_is_better: bool = True

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Scale:
        """Of an epoch, a stage, a round or a point: by its `metric_name`, `metric_unit` and `higher_is_better`."""
        if row.get("metric_name"):
            return cls(
                row["metric_name"], row.get("metric_unit", ""), bool(row.get("higher_is_better", True))
            )
        if any(row.get(key) is not None for key in ("metric", "val_metric")):  # it came without its name
            return cls("metric", "", bool(row.get("higher_is_better", True)))
        return cls()

    @classmethod
    def among(cls, rows: Iterable[Mapping[str, Any]]) -> Scale:
        """Of the rows of one task, some of which may not name it: by the one that says most."""
        keys = ("metric_name", "higher_is_better", "metric", "val_metric")
        return cls.of(max(rows, key=lambda row: [row.get(key) is not None for key in keys], default={}))

    def named(self) -> dict[str, Any]:
        """What `of` reads in a row; nothing where it is what rows have that say nothing."""
        if self == ACCURACY:
            return {}
        return {
            "metric_name": self.metric,
            "metric_unit": self.unit,
            "higher_is_better": self.higher_is_better,
        }

    @property
    def label(self) -> str:
        """Of an axis or a column."""
        return f"{self.metric} ({self.unit})" if self.unit else self.metric

    @property
    def points(self) -> str:
        """The unit of a drop."""
        return "points" if self.unit == "%" else self.unit or self.metric

    @property
    def is_accuracy(self) -> bool:
        """Whether it is an accuracy in percent."""
        return self.metric.endswith("accuracy") and self.unit == "%"

    def number(self, value: float, digits: int = 2) -> str:
        """A value without its unit: so many decimals, of one that is no percentage four digits where it is below 1."""
        return f"{value:.{digits}f}" if self.unit == "%" else _figure(value, digits)

    def told(self, value: float, digits: int = 2) -> str:
        """A value with its unit."""
        return f"{self.number(value, digits)} {self.unit}".rstrip()

    def merit(self, value: float) -> float:
        """What is the greater, the better the value is."""
        return value if self.higher_is_better else -value

    def best(self, values: Iterable[float]) -> float:
        """The best of several."""
        return max(values, key=self.merit)

    def worse(self, before: float, now: float) -> float:
        """How much is lost, in the metric's units; below 0 if something is gained."""
        return self.merit(before) - self.merit(now)


ACCURACY = Scale()
"""What figures are that do not say what they are."""
COST_TEXTS = {"latency": milliseconds_text, "bytes": bytes_text, "macs": count_text}
"""How the costs that a budget may name are told."""


def _figure(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if abs(value) >= 1 or not value else f"{value:.4g}"


def _three(number: float) -> str:
    digits = 2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0
    return f"{number:.{digits}f}" if abs(number) >= 0.995 else f"{number:#.3g}"
