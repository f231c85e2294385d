"""`pintsize.layer_importance`: what each layer's smallest filters are worth, before and after a short retraining."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ...data.batches import example_of
from ...errors import InputError
from ...graph import channel_groups
from ...tables import Table
from ...tasks import task_of
from ...tasks.catalog import with_task
from ...training import evaluate, train
from ..channels.removal import prune
from ..staged.staged import JUDGED_IMAGES, check_training
from .scan import RATIOS, Sensitivity, sensitivity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...storage.folder import RunFolder


@dataclass(frozen=True)
class LayerImportance:
    """Curves of all layers whose filters can be removed."""

    without: Sensitivity
    """Accuracy and loss at each ratio without retraining."""
    retrained: dict[str, list[float]]
    """Layer → accuracy in percent, or another metric, at each ratio after retraining; empty if there was none."""
    epochs: int
    """Of retraining."""

    def tables(self) -> list[Table]:
        """The accuracies, one line for each layer, then those after retraining."""
        if not self.retrained:
            return [self.without.__rich__()]
        number = self.without.scale.number
        rows = [(name, *(number(value, 1) for value in values)) for name, values in self.retrained.items()]
        ratios = (f"{ratio:g}" for ratio in self.without.ratios)
        heading = f"after {self.epochs} epoch{'s' if self.epochs > 1 else ''}"
        return [self.without.__rich__(), Table((heading, *ratios), rows)]

    def table(self) -> str:
        """Those tables as plain text."""
        return "\n\n".join(map(str, self.tables()))

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return str(self.plot()._repr_html_()) + "".join(table._repr_html_() for table in self.tables())

    def plot(self) -> Figure:
        """Both panels of curves."""
        from ...viz.scans import layer_importance as draw

        start = {0.0: self.without.accuracy}
        ratios = self.without.ratios
        before = {
            c.name: {**start, **dict(zip(ratios, c.accuracy, strict=True))} for c in self.without.curves
        }
        after = {n: {**start, **dict(zip(ratios, v, strict=True))} for n, v in self.retrained.items()}
        return draw(before, after or None, scale=self.without.scale)


def layer_importance(
    model: nn.Module,
    data: Any,
    *,
    task: Any = None,
    ratios: Sequence[float] = RATIOS,
    importance: str = "l1",
    epochs: int = 0,
    ignore: Sequence[str] | str = (),
    folder: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    seed: int = 0,
    **training: Any,
) -> LayerImportance:
    """Remove the smallest filters of one layer after the other, and measure accuracy with and without retraining.

    Li et al., 1608.08710, section 3.2 and figure 2. Layers whose filters are added to one another are one. How
    steep the filters' norms fall is drawn by `pintsize.viz.filter_norms`.

    Args:
        model: trained; as before afterwards.
        data: train fits, val is measured.
        task: see `pintsize.train`.
        ratios: removed fractions, rising, in (0, 1).
        importance: criterion for channels; the smallest go first.
        epochs: of retraining for each layer and ratio; 0 for none.
        ignore: layer paths (shell style) to leave out.
        folder: keeps what is done; a run that was stopped goes on from it.
        progress: False for silence.
        seed: of training and of random criteria.
        training: further options of `pintsize.train`.

    Raises:
        InputError: an option makes no sense, or `folder` holds another run.
    """
    from ...storage.folder import RunFolder

    check_training(epochs, seed, training)
    judging, data = with_task(task, data, model)
    if importance == "random" and epochs:
        raise InputError(
            "importance='random'", "there are no smallest filters", "use a criterion of the weights"
        )
    example = example_of(data.val, model)
    path = None if folder is None else Path(folder) / "scan.json"
    without = sensitivity(
        model, data, task=judging, level="group", ratios=ratios, importance=importance, example=example, ignore=ignore,
        path=path, progress=progress, seed=seed,
    )  # fmt: skip
    if not epochs:
        return LayerImportance(without, {}, 0)
    with tempfile.TemporaryDirectory(prefix="pintsize-") as spare, RunFolder(folder or spare).open() as place:
        retrained = _retrain(model, data, example, without, place, epochs, progress, seed, training)
    return LayerImportance(without, retrained, epochs)


def _retrain(
    model: nn.Module, data: Any, example: Any, scan: Sensitivity, place: RunFolder, epochs: int,
    progress: bool | None, seed: int, training: dict[str, Any],
) -> dict[str, list[float]]:  # fmt: skip
    from ...data.digest import data_digest
    from ...storage.digests import model_digest

    groups = {group.name: group for group in channel_groups(model, example)}
    judged = data.train.at_most(JUDGED_IMAGES, seed)
    inputs = [model_digest(model), data_digest(data), scan.importance, epochs, seed, training]
    found: dict[str, list[float]] = {}
    for number, curve in enumerate(scan.curves):
        group = groups[curve.name]
        for ratio in scan.ratios:

            def cut_and_train(_: str, group: Any = group, ratio: float = ratio) -> dict[str, Any]:
                work = copy.deepcopy(model)
                count = min(int(ratio * group.size + 1e-9), group.size - 1)  # as the scan takes it
                if count:
                    prune(work, example, ratios={group.layers[0]: count / group.size}, scope="local",
                          importance=scan.importance, data=judged, seed=seed, task=task_of(None, data))  # fmt: skip
                train(work, data, epochs=epochs, seed=seed, progress=progress, **training)
                return {"val_accuracy": evaluate(work, data.val)}

            stage = f"{number}-{round(1000 * ratio)}"
            result = place.stage(stage, inputs=[inputs, curve.name, ratio], outputs=[], run=cut_and_train)
            found.setdefault(curve.name, []).append(result["val_accuracy"])
    return found
