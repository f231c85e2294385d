"""`prune_by_attention`: learn which channels matter while training, remove the others, cut them out."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field, fields
from html import escape
from typing import TYPE_CHECKING, Any

from torch import nn

from ...data.batches import example_of, moved
from ...errors import InputError, unknown
from ...graph import analyse
from ...quant import fold_batchnorm
from ...recipe.attention import AttentionOptions
from ...storage.atomic import write_text
from ...storage.record import check_order
from ...tasks.catalog import with_task
from ...training import Callback, History, evaluate, train
from ...units import Scale
from ..channels.plan import PruneStep, PruningPlan
from ..weights.masks import masked_layers
from . import ranges as attention_ranges
from . import sites as attention_sites
from .layers import Attended
from .loop import AttentionLoop, norm_images, to_csv
from .pictures import figures
from .realise import Realisation, realise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...data import Data


@dataclass(frozen=True)
class AttentionResult:
    """What attention pruning did."""

    history: History
    """One entry an epoch: those of `pintsize.train`, and `attention_epoch`, `recovery_epoch`, `removed`,
    `channels`, `params`, `macs` (fractions that are left once what can be cut is cut), `kept` (of each vector), `ends`
    (of a recovery), `constant_error` (what a removal changed where a constant met zero padding, in standard deviations)."""
    baseline: float
    """Validation accuracy of the dense network in percent; of another task its metric."""
    accuracy: float
    """That of the smaller network, as it is delivered."""
    realisation: Realisation
    reason: str
    """Why the training ended."""
    options: AttentionOptions = field(repr=False)

    @property
    def plan(self) -> PruningPlan:
        """What was cut, in terms of the dense network."""
        return self.realisation.plan

    @property
    def recovery_ends(self) -> list[int]:
        """The epochs, from 1, after which an attention epoch with its recovery ended."""
        return [int(row["epoch"]) for row in self.history if row["ends"]]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write all epochs as a table."""
        write_text(path, to_csv(self.history))

    def figures(self, model: nn.Module | None = None) -> dict[str, Figure]:
        """The report's pictures; with the pruned `model` also the weights of its most pruned layer."""
        return figures(self.history, self.recovery_ends, self.plan.before["params"], model)

    def _repr_html_(self) -> str:
        figures = self.figures()
        pictures = "".join(str(figures[name]._repr_html_()) for name in ("training", "layers"))
        return f"<pre>{escape(str(self))}</pre>{pictures}"

    def __str__(self) -> str:
        last, error = self.history[-1], self.realisation.error
        scattered, masked = self.realisation.scattered, self.realisation.masked
        left, scale = self.realisation.left, Scale.of(last)
        both = "both accuracies" if scale.is_accuracy else f"the {scale.metric} of both"
        lines = [
            f"{last['epoch']} epochs, {last['attention_epoch'] + 1} of them with attention: {self.reason}",
            f"parameters {left['params']:.1%}, MACs {left['macs']:.1%} left; validation {scale.metric} "
            f"{scale.told(self.baseline)} → {scale.told(self.accuracy)}",
            f"masked and realised network differ by {error:.1g} of the largest output"
            + ("" if self.realisation.rounding else f", more than rounding alone: compare {both}"),
        ]
        if self.realisation.uncut:
            lines.append(
                f"nothing was cut, removed channels are zeros in the network: {self.realisation.uncut}"
            )
        if scattered:
            lines.append(f"{len(scattered)} convolutions compute their kept channels alone")
        if masked:
            lines.append(
                f"{len(masked)} convolutions compute zeros, which was no slower; nothing is claimed for these"
            )
        return "\n".join(lines)


def prune_by_attention(
    model: nn.Module,
    data: Data,
    *,
    task: Any = None,
    example: Any = None,
    teacher: nn.Module | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    csv: str | os.PathLike[str] | None = None,
    log_dir: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    callbacks: tuple[Callback, ...] = (),
    **options: Any,
) -> AttentionResult:
    """Prune the channels of a trained `model` by attention, in place (Novshadian and Abdelefatah, 2024).

    Trains on `data.train`, steered by `data.val`. The network ends smaller: what was removed is cut out, and
    its record says so; it is in eval mode then. On an error `model` is as it was.

    Args:
        model: a trained network.
        data: from `pintsize.data.load`, with a validation split.
        task: see `pintsize.train`.
        example: an input to trace the network with; by default two validation images.
        teacher: whose outputs are learned, too; by default the dense network, where `distill` is on.
        checkpoint: file to write after each epoch and to resume from, to the bit on a CPU.
        csv: table of all epochs, written anew after each.
        log_dir: folder for TensorBoard events.
        progress: as for `pintsize.train`.
        callbacks: further ones.
        options: the fields of `pintsize.pruning.AttentionOptions`, whose help says what each does.

    Returns:
        The history of all epochs, the plan, how it was realised; `figures` and `to_csv`.

    Raises:
        InputError: an unknown option, one out of range, no validation images, or nothing to attend to.
        UnsupportedOp, OperationError, TrainingDiverged: as `pintsize.prune` and `pintsize.train`.
    """
    chosen = options_from(options)
    _check(model, data)
    judging, data = with_task(task, data, model)
    example = example_of(data.val, model) if example is None else example
    example = moved(example, next(model.parameters()).device)
    baseline, metric = evaluate(model, data.val), judging.judged()
    attended, quantization = _attended(model, data, example, chosen)
    in_front_of_norms = chosen.at == "convolution" and quantization is None
    measured = norm_images(data, augment=chosen.augment) if in_front_of_norms else None
    loop = AttentionLoop(
        attended,
        chosen,
        baseline=baseline,
        csv_path=csv,
        norm_images=measured,
        scale=metric.scale,
    )
    if quantization is not None:
        callbacks = (attention_ranges.FollowRanges(attended, quantization, chosen), *callbacks)
    if chosen.distill and teacher is None:
        teacher = copy.deepcopy(model)
    names = ("lr", "batch_size", "augment", "precision", "seed", "distill_weight", "temperature")
    history = train(
        attended.model,
        data,
        epochs=chosen.most_epochs,
        optimizer="adam",
        weight_decay=0.0,
        schedule="constant",
        teacher=teacher,
        checkpoint=checkpoint,
        log_dir=log_dir,
        progress=progress,
        callbacks=(loop, *callbacks),
        **{name: getattr(chosen, name) for name in names},
    )
    if loop.finish():
        found = realise(model, attended, example, quantization=quantization)
    else:
        full = attended.costs([[]] * len(attended.graph.groups))
        found = Realisation(PruningPlan({}, before=full, after=full))
    model.eval()
    return AttentionResult(history, baseline, evaluate(model, data.val), found, loop.reason, chosen)


def _attended(
    model: nn.Module, data: Data, example: Any, options: AttentionOptions
) -> tuple[Attended, attention_ranges.Quantization | None]:
    """A copy of `model` with attention on it, and how it is quantized, where the options say so."""
    graph = analyse(model, example)
    sites = attention_sites.find(model, graph, options)
    work = copy.deepcopy(model)
    if options.weights is None:
        return Attended(work, graph, sites, options, example=example), None
    images = data.train.at_most(attention_ranges.CALIBRATION_IMAGES, options.seed)
    quantization = attention_ranges.plan_quantization(model, example, options, images)
    fold_batchnorm(work, example)
    attended = Attended(work, graph, sites, options)
    quantization.step.apply(work)
    attended.quantized()
    attention_ranges.set_ranges(work, quantization.ranges)
    return attended, quantization


def _check(model: nn.Module, data: Data) -> None:
    """Raise an error if `model` cannot be pruned by attention with `data`."""
    check_order(model, PruneStep)
    if masked_layers(model):
        raise InputError(
            f"attention on {type(model).__name__}, whose weights have masks",
            "attention scales weights that the masks would set anew",
            "prune by attention first and sparsify what is left, or take the masks off with remove_masks",
        )
    if not len(data.val):
        raise InputError(
            "attention pruning without validation images",
            "validation accuracy decides when a recovery ends",
            "load the data with val_fraction above 0",
        )


def options_from(given: dict[str, Any]) -> AttentionOptions:
    """The options of keyword arguments or a recipe.

    Raises:
        InputError: there is no such option, or a value is out of range.
    """
    names = [f.name for f in fields(AttentionOptions)]
    for name in given:
        if name not in names:
            raise unknown("option of attention pruning", name, names)
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    return AttentionOptions(**values)
