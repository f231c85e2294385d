"""`pintsize.sensitivity`: how much accuracy each part of a network costs when it alone is pruned, without retraining."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...data.batches import moved, rows, size, split_batch
from ...errors import InputError, InputTypeError, unknown
from ...storage.atomic import write_text
from ...tables import Table, Tabular
from ...tasks import Task
from ...tasks.catalog import kept_under, with_task
from ...training.evaluation import batches_of
from ...training.placement import device_of
from ...units import ACCURACY, Scale
from ..rules.language import ELEMENTS, Rules, from_ratios
from .book import FORMAT, Book, read
from .parts import LEVELS, Part, find_parts
from .prefix import Batch, Prefix

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Curve:
    """One part of the network."""

    name: str
    """A parameter, or the first layer of a channel group."""
    parameters: list[str]
    """Weights that a rule for this part names."""
    size: int
    """Weights, filters or units."""
    accuracy: list[float]
    """At each ratio, percent; of another task its metric."""
    loss: list[float]
    """Mean of the task's loss, at each ratio."""


@dataclass(frozen=True)
class Sensitivity(Tabular):
    """The curves of all parts."""

    level: str
    importance: str
    ratios: list[float]
    """Removed fractions."""
    accuracy: float
    """Of the whole network, percent; of another task its metric."""
    loss: float
    images: int
    curves: list[Curve]
    """In the order in which the parts are run."""
    metric: str = "accuracy"
    unit: str = "%"
    higher_is_better: bool = True

    @property
    def scale(self) -> Scale:
        """How its figures are told, drawn and compared."""
        return Scale(self.metric, self.unit, self.higher_is_better)

    def ratio_for(self, curve: Curve, max_drop: float) -> float:
        """The largest ratio up to which the curve loses at most `max_drop`, in the metric's units; 0 if there is none."""
        best = 0.0
        for ratio, accuracy in zip(self.ratios, curve.accuracy, strict=True):
            if self.scale.worse(self.accuracy, accuracy) > max_drop + 1e-9:
                break
            best = ratio
        return best

    def to_rules(self, max_drop: float, *, stages: int = 1) -> Rules:
        """The rule file that prunes each part as far as it alone tolerates.

        Args:
            max_drop: percentage points, or in the units of another metric.
            stages: reach the ratios in so many equal parts.

        Raises:
            InputError: `max_drop` is negative, or no part tolerates anything.
        """
        if not (isinstance(max_drop, int | float) and max_drop >= 0):
            raise InputError(f"max_drop={max_drop!r}", "it is no drop", "pass percentage points, e.g. 0.5")
        importance = ELEMENTS if self.level == "weight" else _RULE_NAMES.get(self.importance, self.importance)
        tolerated: dict[str, float] = {}
        for curve in self.curves:
            # channels of one weight may belong to several groups: the least counts
            for name in curve.parameters:
                tolerated[name] = min(tolerated.get(name, 1.0), self.ratio_for(curve, max_drop))
        chosen = [(name, ratio, importance) for name, ratio in tolerated.items()]
        if not any(ratio for _, ratio, _ in chosen):
            raise InputError(
                f"max_drop={max_drop:g}",
                f"pruning any part by {self.ratios[0]:.0%} costs more",
                "tolerate more, or scan smaller ratios",
            )
        return from_ratios(chosen, stages=stages, source=f"rules for max_drop={max_drop:g}")

    def by_layer(self) -> dict[str, dict[float, float]]:
        """Layer → {ratio: accuracy}, with the whole network at 0."""
        return {
            curve.name: {0.0: self.accuracy, **dict(zip(self.ratios, curve.accuracy, strict=True))}
            for curve in self.curves
        }

    def plot(self, *, max_drop: float | None = None) -> Figure:
        """The curves as a figure."""
        from ...viz.scans import sensitivity_curves

        return sensitivity_curves(self.by_layer(), max_drop=max_drop, scale=self.scale)

    def __rich__(self) -> Table:
        """One line for each part: its accuracy at each ratio."""
        scale = self.scale
        rows = [(curve.name, *(scale.number(value, 1) for value in curve.accuracy)) for curve in self.curves]
        whole = f"{'' if scale == ACCURACY else f'{scale.metric} '}{scale.told(self.accuracy)} whole"
        return Table((whole, *(f"{ratio:g}" for ratio in self.ratios)), rows)

    def _repr_html_(self) -> str:
        return str(self.plot()._repr_html_()) + super()._repr_html_()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, atomically."""
        write_text(path, json.dumps({"format": FORMAT, "result": asdict(self)}, indent=1))

    @staticmethod
    def finished(path: str | os.PathLike[str]) -> bool:
        """Whether the scan that is written to this file has come to its end."""
        return read(Path(path)).get("result") is not None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Sensitivity:
        """Read what `save`, or a finished scan, wrote.

        Raises:
            InputError: no such file, or the scan in it is not finished.
            CorruptFile: it is no scan.
        """
        fields = read(Path(path)).get("result")
        if fields is None:
            raise InputError(str(path), "its scan is not finished", "run the scan again with this path")
        return cls(**{**fields, "curves": [Curve(**curve) for curve in fields["curves"]]})


_RULE_NAMES = {"l1": "l1norm", "l2": "l2norm"}


def sensitivity(
    model: nn.Module,
    data: Any,
    *,
    task: Any = None,
    level: str = "weight",
    ratios: Sequence[float] = RATIOS,
    importance: str | None = None,
    example: Any = None,
    ignore: Sequence[str] | str = (),
    batch_size: int = 256,
    path: str | os.PathLike[str] | None = None,
    reuse: bool = True,
    memory: int = 2**30,
    progress: bool | None = None,
    seed: int = 0,
) -> Sensitivity:
    """Prune one part of `model` at a time, and measure the task's metric and loss without retraining.

    Args:
        model: as before afterwards.
        data: a data set, whose validation images are taken; a split; or an iterable of batches.
        task: see `pintsize.train`.
        level: `weight` (the single weights of each tensor), `filter` (the filters of each layer, with the
            norm behind it), or `group` (each channel group: what is really cut out together).
        ratios: removed fractions, rising, in (0, 1).
        importance: what goes first; `magnitude` for weights, `l1` for filters, `l2` for groups by default.
            Criteria that need gradients look at the training images of a data set.
        example: an input; by default of the data.
        ignore: layer paths (shell style) to leave out.
        batch_size: images at a time.
        path: a JSON file, written after each part; a scan that was stopped goes on from it.
        reuse: do not compute anew what runs before the pruned part; the numbers are the same.
        memory: bytes that this may take; more images are scanned in several goes.
        progress: False for silence.
        seed: of random criteria.

    Raises:
        InputError: an option makes no sense, or `path` holds another scan.
    """
    if level not in LEVELS:
        raise unknown("level", level, LEVELS)
    chosen = _check_ratios(ratios)
    importance = importance or LEVELS[level]
    device = device_of(model)
    judging, data = with_task(task, data, model)
    split = getattr(data, "val", data)
    batches = [
        tuple(moved(part, device) for part in split_batch(batch, model))
        for batch in batches_of(split, batch_size, device)
    ]
    if not batches:
        raise InputError("data", "it has no images", "pass a split with at least one")
    if batches[0][1] is None:
        raise InputTypeError(
            f"a batch without targets for task {judging.name!r}", "there is nothing to judge by",
            "give out (inputs, targets), or a data set of ps.data.from_loaders with task='imitation'",
        )  # fmt: skip
    example = rows(batches[0][0], 0, 2) if example is None else example
    parts = find_parts(
        model, level, importance, example=example, data=data, ignore=ignore, seed=seed, task=judging
    )
    scan = _Scan(model, parts, batches, judging, chosen, reuse=reuse, memory=memory)
    identity = scan.identity(level, importance)
    book = Book(None if path is None else Path(path), identity, len(chosen))
    if book.result is not None:
        return Sensitivity.load(book.path or "")
    scan.run(book, progress)
    result = scan.result(level, importance, book)
    if book.path is not None:
        book.finish(asdict(result))
    return result


_WHOLE = ""


class _Scan:
    """All parts over all images."""

    def __init__(
        self, model: nn.Module, parts: list[Part], batches: list[Batch], task: Task, ratios: list[float], *,
        reuse: bool, memory: int,
    ) -> None:  # fmt: skip
        self.model, self.batches, self.task, self.ratios = model, batches, task, ratios
        self.parts, self._reuse, self._memory = parts, reuse, memory
        self.images = sum(size(inputs) for inputs, _ in batches)

    def identity(self, level: str, importance: str) -> dict[str, Any]:
        """What must be equal for a scan to go on."""
        from ...storage.digests import digest, model_digest, tensor_digest

        labels = {
            str(number): leaf for number, leaf in enumerate(_tensors([labels for _, labels in self.batches]))
        }
        ends = {"first": self.batches[0][0], "last": self.batches[-1][0]}
        images = {
            name if not number else f"{name} {number}": leaf
            for name, inputs in ends.items()
            for number, leaf in enumerate(_tensors(inputs))
        }
        return {
            **kept_under(self.task),
            "model": model_digest(self.model),
            "data": digest([tensor_digest(labels), tensor_digest(images)]),
            "parts": [part.name for part in self.parts],
            "level": level,
            "importance": importance,
            "ratios": self.ratios,
            "memory": self._memory if self._reuse else 0,
        }

    def run(self, book: Book, progress: bool | None) -> None:
        """Whatever the book does not have yet."""
        with Prefix(self.model, self.batches, self.task) as prefix:
            parts = sorted(
                self.parts, key=lambda part: prefix.order(part.layers) or 0
            )  # those without prefix first
            largest = max(prefix.bytes_per_image(part.layers) for part in parts) if self._reuse else 0
            goes = self._goes(largest)
            if len(goes) > 1 and self.task.key != "accuracy":  # a metric of all images is no sum over goes
                self._reuse, goes = False, [self.batches]
            for part, go, batches in _shown(
                ((part, go, batches) for go, batches in enumerate(goes) for part in [None, *parts]),
                len(goes) * (1 + len(parts)), progress,
            ):  # fmt: skip
                name = _WHOLE if part is None else part.name
                if part is None:
                    prefix.use(batches)
                if book.has(go, name):
                    continue
                if part is None:
                    book.add(go, name, [prefix.score()])
                    continue
                if self._reuse:
                    prefix.advance(part.layers)
                found = []
                for ratio in self.ratios:
                    with part.pruned(ratio):
                        found.append(prefix.score())
                book.add(go, name, found)

    def _goes(self, bytes_per_image: int) -> list[list[Batch]]:
        """The batches in goes whose stored prefixes fit into the memory."""
        goes: list[list[Batch]] = [[]]
        room = float(self._memory)
        for batch in self.batches:
            need = bytes_per_image * size(batch[0])
            if goes[-1] and need > room:
                goes.append([])
                room = float(self._memory)
            goes[-1].append(batch)
            room -= need
        return goes

    def result(self, level: str, importance: str, book: Book) -> Sensitivity:
        """The means."""
        n = self.images
        ((loss, correct),) = book.sums[_WHOLE]
        curves = [
            Curve(
                part.name,
                part.parameters,
                part.size,
                [100 * c / n for _, c in book.sums[part.name]],
                [total / n for total, _ in book.sums[part.name]],
            )
            for part in self.parts
        ]
        metric = self.task.judged()
        return Sensitivity(
            level, importance, self.ratios, 100 * correct / n, loss / n, n, curves, metric.name, metric.unit,
            metric.higher_is_better,
        )  # fmt: skip


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _shown(items: Iterable[Any], total: int, progress: bool | None) -> Iterable[Any]:
    if progress is False or not (progress or sys.stderr.isatty()):
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, "sensitivity", total=total, console=Console(stderr=True))


def _check_ratios(ratios: Sequence[float]) -> list[float]:
    found = [float(ratio) for ratio in ratios]
    if not found or any(not 0 < r < 1 for r in found) or sorted(set(found)) != found:
        raise InputError(f"ratios={list(ratios)}", "they do not rise within (0, 1)", "e.g. (0.1, 0.5, 0.9)")
    return found
