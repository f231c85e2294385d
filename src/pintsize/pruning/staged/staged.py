"""Prune, retrain, prune, retrain …: what rounds and rule files have in common, and what is measured of each."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ...data.batches import arrays
from ...errors import unknown
from ...tables import Table, Tabular, judged
from ...tasks import task_of
from ...training import evaluate, train
from ...training.options import Options
from ...units import ACCURACY, Scale, bytes_text, count_text, drop_text, milliseconds_text
from ..weights.masks import maskable, masks_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...storage.folder import RunFolder

DENSE, LONGER = "dense", "dense, trained on"
JUDGED_IMAGES = 1024
"""Training images that criteria may look at."""
_DEFAULTS = {
    name: option.default
    for name, option in inspect.signature(train).parameters.items()
    if name in {field.name for field in dataclasses.fields(Options)} - {"epochs", "seed"}
}


@dataclass(frozen=True)
class Round:
    """The network after one round of pruning and retraining."""

    name: str
    params: int
    macs: int
    """Per image."""
    filters: dict[str, int]
    """Convolution or linear layer → its output channels."""
    val_accuracy: float
    """Of the network as it is, percent; of another task its metric."""
    best_val_accuracy: float
    """Over the epochs of the round."""
    mean_val_accuracy: float
    """Over the epochs of the round."""
    density: float = 1.0
    """Share of all parameters that no mask has removed."""
    bytes: int | None = None
    """Of the exported ONNX file; like all that follows, None where it was not measured."""
    accuracy: float | None = None
    """Of the exported file on the test images, percent."""
    latency_ms: float | None = None
    """Median of one image, in turns with the other rounds."""
    peak_bytes: int | None = None
    """Memory of a fresh process that runs the file."""
    metric_name: str = "accuracy"
    metric_unit: str = "%"
    higher_is_better: bool = True

    @property
    def scale(self) -> Scale:
        """How its figures are told, drawn and compared."""
        return Scale(self.metric_name, self.metric_unit, self.higher_is_better)


@dataclass(frozen=True)
class StagedPruning(Tabular):
    """What `prune_rounds` and `prune_by_rules` did."""

    rounds: list[Round]
    """The dense network first; after it, where there is a baseline, the dense one trained as long as the pruned."""
    histories: dict[str, list[dict[str, Any]]] = field(repr=False, default_factory=dict)
    """Name of a round → its training, epoch by epoch."""

    @property
    def baseline(self) -> Round:
        """What the last round is held against."""
        return next((row for row in self.rounds if row.name == LONGER), self.rounds[0])

    @property
    def drop(self) -> float:
        """How much worse the last round is than the baseline: on the test images, else on validation."""
        rows = self.baseline, self.rounds[-1]
        found = [row.val_accuracy if row.accuracy is None else row.accuracy for row in rows]
        return rows[0].scale.worse(*found)

    @property
    def told(self) -> str:
        """The drop in words."""
        longer = " trained for as long" if self.baseline is not self.rounds[0] else ""
        scale = self.rounds[0].scale
        return f"{drop_text(self.drop, scale.points, scale.metric)} against the dense network{longer}"

    def _repr_html_(self) -> str:
        return str(self.figures()["rounds"]._repr_html_()) + super()._repr_html_()

    def __rich__(self) -> Table:
        """One line for each round."""
        rows = [
            (
                row.name,
                count_text(row.params),
                f"{row.density:.1%}",
                count_text(row.macs),
                f"{row.scale.number(row.best_val_accuracy)} / {row.scale.number(row.mean_val_accuracy)}",
                "" if row.accuracy is None else row.scale.told(row.accuracy),
                "" if row.bytes is None else bytes_text(row.bytes),
                "" if row.latency_ms is None else milliseconds_text(row.latency_ms),
                "" if row.peak_bytes is None else bytes_text(row.peak_bytes),
            )
            for row in self.rounds
        ]
        scale = self.rounds[0].scale
        val = "val best / mean" if scale == ACCURACY else f"val {scale.label} best / mean"
        headings = "parameters", "kept", "MACs", val, "test", "file", "latency", "peak memory"
        return Table(("", *headings), rows)

    def figures(self) -> dict[str, Figure]:
        """Bars of each measure over the rounds, and the filters that each layer has left."""
        return round_figures([dataclasses.asdict(row) for row in self.rounds])


def round_figures(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """The pictures of `StagedPruning`, of its rounds as `metrics.json` holds them."""
    from ...viz.stages import filters_per_layer, round_bars

    stages = [
        {
            **row,
            "accuracy": row["val_accuracy"] if row["accuracy"] is None else row["accuracy"],
            "latency": {"median_ms": row["latency_ms"]},
        }
        for row in rounds
    ]
    pruned = [row for row in rounds if row["name"] != LONGER]
    filters = {layer: [row["filters"][layer] for row in pruned] for layer in pruned[0]["filters"]}
    return {
        "rounds": round_bars(stages),
        "filters": filters_per_layer(filters, labels=[row["name"] for row in pruned]),
    }


@dataclass(frozen=True)
class Staged:
    """How the rounds of one pruning are run.

    Args:
        model: pruned in place.
        data: train fits, val steers; test is read once, at the very end, if anything is measured.
        example: two images.
        settings: all that decides the cuts, JSON-able.
        epochs: training epochs after each cut.
        distill: the network as it was at the start is the teacher.
        baseline: train a copy of the dense network for as many epochs as all rounds together.
        training: further options of `pintsize.train`.
        measure: export each round, time it, and read the test images.
        threads: of the runtime.
    """

    model: nn.Module
    data: Any
    example: Any
    settings: dict[str, Any]
    epochs: int
    distill: bool
    baseline: bool
    training: dict[str, Any]
    measure: bool
    threads: int
    progress: bool | None
    seed: int

    def run(
        self, cuts: Sequence[tuple[str, Callable[[], object]]], folder: str | os.PathLike[str] | None
    ) -> StagedPruning:
        """Each cut by its name, then training; rounds that are done in `folder` are read back."""
        from ...storage.folder import RunFolder

        check_training(self.epochs, self.seed, self.training)
        with (
            tempfile.TemporaryDirectory(prefix="pintsize-") as spare,
            RunFolder(spare if folder is None else folder).open() as place,
        ):
            return self._rounds(place, cuts)

    def _rounds(self, place: RunFolder, cuts: Sequence[tuple[str, Callable[[], object]]]) -> StagedPruning:
        from ...data.digest import data_digest
        from ...storage.digests import model_digest

        dense = copy.deepcopy(self.model)
        origin = [model_digest(self.model), data_digest(self.data), self.seed, self.settings]
        how = {"epochs": self.epochs, "distill": self.distill, **self.training}
        files, histories, rows = {}, {}, []

        def done(
            name: str, model: nn.Module, inputs: Any, change: Callable[[str], list[dict[str, Any]]]
        ) -> None:
            file = f"{_stem(name)}.safetensors"
            ran = []

            def run(key: str) -> dict[str, Any]:
                ran.append(name)
                history = change(key)
                return self._keep(model, place.path / file, name, history)

            result = place.stage(_stem(name), inputs=inputs, outputs=[file], run=run)
            if not ran:
                from ...storage.replay import replay

                replay(place.path / file, model)
            if self.measure:
                from ...deploy import export

                export(model, place.path / f"{_stem(name)}.onnx", example=self.example)
            files[name] = place.path / f"{_stem(name)}.onnx"
            rows.append(Round(**result["row"]))
            if result["history"]:
                histories[name] = result["history"]

        done(DENSE, self.model, origin, lambda _: [])
        for number, (name, cut) in enumerate(cuts):

            def cut_and_train(
                key: str, cut: Callable[[], object] = cut, name: str = name
            ) -> list[dict[str, Any]]:
                cut()
                return self._fit(self.model, place.path / f"{_stem(name)}-{key[:16]}.ckpt", self.epochs,
                                 dense if self.distill else None)  # fmt: skip

            done(name, self.model, [number, how], cut_and_train)
        if self.baseline:
            longer, total = copy.deepcopy(dense), self.epochs * len(cuts)
            done(LONGER, longer, [total, how],
                 lambda key: self._fit(longer, place.path / f"{_stem(LONGER)}-{key[:16]}.ckpt", total, None))  # fmt: skip
            rows.insert(1, rows.pop())
        place.forget_others()
        self.model.eval()
        return StagedPruning(self._measured(rows, files) if self.measure else rows, histories)

    def _fit(
        self, model: nn.Module, checkpoint: Path, epochs: int, teacher: nn.Module | None
    ) -> list[dict[str, Any]]:
        if not epochs:
            return []
        options = {**self.training, **({"teacher": teacher} if teacher is not None else {})}
        if teacher is None:
            options = {k: v for k, v in options.items() if k not in ("distill_weight", "temperature")}
        history = train(
            model, self.data, epochs=epochs, checkpoint=checkpoint, progress=self.progress, seed=self.seed, **options
        )  # fmt: skip
        checkpoint.unlink(missing_ok=True)
        return list(history)

    def _keep(self, model: nn.Module, file: Path, name: str, history: list[dict[str, Any]]) -> dict[str, Any]:
        from ...measure import profile
        from ...storage.network_file import save

        save(model, file)
        cost = profile(model, self.example)
        now = evaluate(model, self.data.val)
        over = [value for entry in history if (value := judged(entry, "val_")) is not None] or [now]
        metric = task_of(None, self.data).judged()
        filters = {path: len(layer.get_parameter("weight")) for path, layer in maskable(model).items()}
        row = Round(
            name, cost.params, cost.macs, filters, now, metric.best(over), sum(over) / len(over),
            _density(model, cost.params), metric_name=metric.name, metric_unit=metric.unit,
            higher_is_better=metric.higher_is_better,
        )  # fmt: skip
        return {"row": dataclasses.asdict(row), "history": history}

    def _measured(self, rows: list[Round], files: dict[str, Path]) -> list[Round]:
        """The only place that reads the test images: every round's file, once."""
        from ...deploy import open_runtimes, peak_memory
        from ...measure import side_by_side

        with open_runtimes(files, threads=self.threads) as runtimes:
            times = side_by_side(runtimes, arrays(self.example), threads=self.threads)
            accuracies = {name: evaluate(runtime, self.data.test) for name, runtime in runtimes.items()}
        return [
            dataclasses.replace(
                row,
                bytes=files[row.name].stat().st_size,
                accuracy=accuracies[row.name],
                latency_ms=times[row.name].median_ms,
                peak_bytes=peak_memory(files[row.name], threads=self.threads),
            )
            for row in rows
        ]


def check_training(epochs: int, seed: int, training: Mapping[str, Any]) -> None:
    """Raise for options of `pintsize.train` that are wrong, before anything is cut."""
    for name in training:
        if name not in _DEFAULTS:
            raise unknown("option", name, _DEFAULTS)
    given = {**_DEFAULTS, "epochs": epochs, "seed": seed, **training}
    Options(**given)


def _density(model: nn.Module, params: int) -> float:
    gone = sum(int((~mask).sum()) for mask in masks_of(model).values())
    return (params - gone) / params


def _stem(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


__all__ = ["Round", "StagedPruning"]
