"""The loop of attention pruning, as a callback of `pintsize.train` (the report's Alg. 2).

An attention epoch begins with one epoch that trains attention and weights together; at its end the
channels whose attention has vanished are removed. Up to `recovery - 1` epochs of the weights alone follow,
fewer if validation accuracy gets back to what the last attention epochs reached.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...quant import reestimate_norms
from ...recipe.attention import AttentionOptions
from ...storage.atomic import write_text
from ...tables import judged
from ...training import Callback, TrainState
from ...units import ACCURACY, Scale
from .layers import Attended
from .vectors import elastic_net, weight_penalty

if TYPE_CHECKING:
    from ...data import Data

_NORM_IMAGES = 2048
_FIXED_COLUMNS = (
    "epoch", "attention_epoch", "recovery_epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy",
    "channels", "params", "macs", "removed", "threshold_accuracy", "recovered", "seconds",
)  # fmt: skip
_OF_ANOTHER_METRIC = {
    "train_accuracy": "train_metric",
    "val_accuracy": "val_metric",
    "threshold_accuracy": "threshold_metric",
}
"""Columns of a task other than classification."""


class AttentionLoop(Callback):
    """Trains the attention, removes, lets recover, and stops.

    Args:
        attended: the network that is trained.
        options: of the pruning.
        baseline: validation accuracy of the dense network in percent, or another metric.
        csv_path: a table of all epochs, written anew after each.
        norm_images: gives batches on which norms are measured anew when attention has moved: in front of a norm, factors
            that fall at every step leave its running averages behind.
        scale: of the metric.
    """

    def __init__(
        self,
        attended: Attended,
        options: AttentionOptions,
        *,
        baseline: float,
        csv_path: str | os.PathLike[str] | None = None,
        norm_images: Callable[[], Iterable[Any]] | None = None,
        scale: Scale = ACCURACY,
    ) -> None:
        self.norm_images, self.scale = norm_images, scale
        self._sign = self.scale.merit(1.0)
        self.attended, self.options, self.csv_path = attended, options, csv_path
        self.baseline = self._sign * baseline
        self.attention_epoch = 0
        self.recovery_epoch = 0
        self.bests: list[float] = []
        """Best validation accuracy of each attention epoch that has ended; of another metric by its direction."""
        self.reason = "all attention epochs were done"
        """Why the training ended."""
        self._accuracies: list[float] = []
        self._removed = 0
        self._quiet = 0
        self._at_target = False
        self._good: dict[str, Tensor] | None = None

    def own_parameters(self, model: Any) -> list[torch.nn.Parameter]:  # noqa: ARG002
        """The attention vectors."""
        return [vector.attention for vector in self.attended.vectors]

    def on_train_start(self, state: TrainState) -> None:
        """Make the attention's own Adam."""
        self._adam = torch.optim.Adam(self.own_parameters(state.model), lr=self.options.attention_lr)
        self._weights = self.attended.weights()
        self.attended.refresh()

    def on_epoch_start(self, state: TrainState) -> None:  # noqa: ARG002
        """Attention is trained in the first epoch of an attention epoch alone, and not once the target is met."""
        self.attending = self.recovery_epoch == 0 and not self._at_target
        for parameter in self.own_parameters(None):
            parameter.requires_grad_(self.attending)

    def penalty(self, state: TrainState) -> Tensor | None:  # noqa: ARG002
        """`λ_att · Σ (α‖Â‖₁ + β‖Â‖₂) + λ_reg · R(w)`."""
        options, terms = self.options, []
        if self.attending and options.attention_weight:
            vectors = [vector() for vector in self.attended.vectors]
            prices = [site.price for site in self.attended.sites]
            net = elastic_net(vectors, l1=options.alpha, l2=options.beta, prices=prices)
            terms.append(options.attention_weight * net)
        if options.weight_penalty:
            terms.append(options.weight_penalty * weight_penalty(self._weights, options.weight_norm))
        return torch.stack(terms).sum() if terms else None

    def on_step_end(self, state: TrainState) -> None:
        """Step the attention, and after the last step of its epoch remove; what is removed stays zero."""
        if self.attending:
            self._adam.step()
            for vector in self.attended.vectors:
                vector.bound()
        self.attended.hold()
        if state.step % state.steps_per_epoch == 0:  # validation is to see the smaller network
            self._removed = self._remove() if self.attending else 0
            if self.attending and self.norm_images is not None:
                reestimate_norms(self.attended.model, self.norm_images(), images=None)

    def on_epoch_end(self, state: TrainState) -> None:
        """Remove what has vanished, and choose what the next epoch does."""
        entry, key = state.history[-1], "metric" if "val_metric" in state.history[-1] else "accuracy"
        accuracy = self._sign * float(judged(entry, "val_") or 0.0)
        if self.recovery_epoch == 0:
            self._quiet = 0 if self._removed else self._quiet + 1
        self._accuracies.append(accuracy)
        last = self.bests[-self.options.average_over :] or [self.baseline]
        threshold = sum(last) / len(last)
        recovered = accuracy >= threshold
        ends = recovered or self.recovery_epoch + 1 >= self.options.recovery(self.attention_epoch)
        kept = self.attended.kept_by_layer()
        units = [len(mask) for mask in self.attended.kept]
        entry.update(
            attention_epoch=self.attention_epoch,
            recovery_epoch=self.recovery_epoch,
            removed=self._removed,
            channels=sum(k * u for k, u in zip(kept.values(), units, strict=True)) / sum(units),
            **self.attended.fractions(),
            **{f"threshold_{key}": self._sign * threshold},
            recovered=recovered,
            ends=ends,
            kept=kept,
            constant_error=self.attended.constant_error if self._removed else 0.0,
        )
        self.recovery_epoch += 1
        if ends:
            self._end_attention_epoch(state)
        if self.csv_path is not None:
            write_text(self.csv_path, to_csv(state.history))

    def _end_attention_epoch(self, state: TrainState) -> None:
        options, best = self.options, max(self._accuracies)
        self.bests.append(best)
        if self._at_target:
            self._stop(state, f"the target of {options.target:.1%} of the parameters is reached")
        if options.max_drop is not None:
            if self.baseline - self._accuracies[-1] <= options.max_drop:
                self._keep_good(state)
            elif self.baseline - best > options.max_drop:
                self._stop(state, f"the drop is above {options.max_drop:g} {self.scale.points}")
        if options.patience is not None and self._quiet >= options.patience:
            self._stop(state, f"{options.patience} attention epochs removed nothing")
        self.attention_epoch += 1
        self.recovery_epoch, self._accuracies = 0, []
        if self.attention_epoch >= options.attention_epochs:
            state.stop = True

    def _keep_good(self, state: TrainState) -> None:
        self._good = {name: tensor.detach().clone() for name, tensor in state.model.state_dict().items()}

    def _stop(self, state: TrainState, reason: str) -> None:
        state.stop, self.reason = True, reason

    def _remove(self) -> int:
        """Remove the units whose attention has vanished, no more than the target asks for; how many."""
        options = self.options
        chosen = []
        for vector in self.attended.vectors:
            units = vector.vanished(options.threshold)
            room = int(vector.kept.sum()) - options.min_channels
            order = vector.attention.detach()[units].argsort(stable=True)
            # the report's form without normalisation may lose whole layers: that is what it shows
            chosen.append(units[order] if options.normalize == "none" else units[order][: max(room, 0)])
        if options.target is not None:
            chosen = self._until_target(chosen, options.target)
        for vector, units in zip(self.attended.vectors, chosen, strict=True):
            vector.remove(units)
        count = sum(len(units) for units in chosen)
        if count:
            self.attended.refresh(fold=True)
        return count

    def _until_target(self, chosen: list[Tensor], target: float) -> list[Tensor]:
        """As many of `chosen` as the target asks for, equal shares of all vectors."""
        if self.attended.fractions_without(chosen)["params"] > target:
            return chosen
        self._at_target = True
        order = sorted((k / len(units), site) for site, units in enumerate(chosen) for k in range(len(units)))

        def first(count: int) -> list[Tensor]:
            taken = Counter(site for _, site in order[:count])
            return [units[: taken[site]] for site, units in enumerate(chosen)]

        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            if self.attended.fractions_without(first(middle))["params"] <= target:
                high = middle
            else:
                low = middle + 1
        return first(high)

    def configuration(self) -> dict[str, Any]:
        """All options."""
        return asdict(self.options)

    def state_dict(self) -> dict[str, Any]:
        """Where the loop is."""
        return {
            "adam": self._adam.state_dict(),
            "attention_epoch": self.attention_epoch,
            "recovery_epoch": self.recovery_epoch,
            "bests": list(self.bests),
            "accuracies": list(self._accuracies),
            "quiet": self._quiet,
            "at_target": self._at_target,
            "reason": self.reason,
            "good": self._good,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; the vectors are in the model's own state."""
        self._adam.load_state_dict(state["adam"])
        self.attention_epoch, self.recovery_epoch = state["attention_epoch"], state["recovery_epoch"]
        self.bests, self._accuracies = list(state["bests"]), list(state["accuracies"])
        self._quiet = state["quiet"]
        self._at_target, self.reason, self._good = state["at_target"], state["reason"], state["good"]
        self.attended.refresh()

    def finish(self) -> bool:
        """Give the model the values to end with; whether there are any.

        Where the drop is limited, they are the last that kept within it, if any did.
        """
        if self.options.max_drop is not None:
            if self._good is None:
                self.reason += ", from the first attention epoch on: the network is as it was"
                return False
            self.attended.model.load_state_dict(self._good)
        self.attended.refresh()
        return True


def norm_images(data: Data, *, augment: bool) -> Callable[[], Iterable[Any]]:
    """What norms are measured anew on after an epoch in which attention has moved: batches of training images."""
    return partial(data.train.at_most(_NORM_IMAGES).batches, shuffle=True, augment=augment)


def to_csv(epochs: list[dict[str, Any]]) -> str:
    """All epochs as a table: one line an epoch, one column per vector with its kept fraction."""
    first = epochs[0] if epochs else {}
    vectors, columns = list(first.get("kept", ())), list(_FIXED_COLUMNS)
    if "val_metric" in first:
        renamed = [_OF_ANOTHER_METRIC.get(key, key) for key in columns]
        columns = [key for key in (*renamed, "metric_name", "metric_unit") if key in first]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *(f"kept {name}" for name in vectors)])
    for row in epochs:
        writer.writerow([*(row[key] for key in columns), *(row["kept"][name] for name in vectors)])
    return text.getvalue()
