"""The criteria for single weights as criteria for channels: their scores summed over each filter."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import Tensor

from ...graph import Member
from ..weights.criteria import element_scores
from ..weights.masks import maskable, weight_name
from .importance import criterion, units_of
from .statistics import Statistics

SUMMED = ("magnitude", "snip", "grasp", "synflow", "ecs", "movement")
"""`random` is not among them: channels have a random criterion of their own."""
_known: WeakKeyDictionary[Statistics, dict[str, dict[str, Tensor]]] = WeakKeyDictionary()


def _scores(name: str, statistics: Statistics) -> dict[str, Tensor]:
    """Element scores of all weights, computed once for each `Statistics`."""
    tables = _known.setdefault(statistics, {})
    if name not in tables:
        weights = {
            weight_name(path): statistics.parameter(weight_name(path)) for path in maskable(statistics.model)
        }
        tables[name] = element_scores(name, weights, statistics, "global")
        if name == "ecs":  # negated ranks: a filter with more weights must not lose by their number
            lowest = min(float(score.min()) for score in tables[name].values())
            tables[name] = {weight: score - lowest for weight, score in tables[name].items()}
    return tables[name]


def _register(name: str) -> None:
    def summed(member: Member, statistics: Statistics) -> Tensor | None:
        score = _scores(name, statistics).get(member.parameter)
        return None if score is None else units_of(member, score.double()).sum(1)

    summed.__doc__ = f"The criterion {name!r} for single weights, summed over each filter."
    criterion(name)(summed)


for _name in SUMMED:
    _register(_name)
