"""When weights go during a training: schedules of the density, and the callback of `pintsize.train` that follows one.

Epochs and steps count from 0; an event of epoch `e` happens before its first step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ...errors import InputError
from ...storage import record as _record
from ...tasks import task_of
from ...training.callbacks import Callback, TrainState
from ..channels.statistics import Statistics
from . import criteria as element_criteria
from . import selection as element_selection
from .masks import MaskStep, density, maskable, masks_of, set_masks, weight_name
from .selection import Pattern
from .sparsity import batches_for, chosen_weights, find_masks


class Schedule(Protocol):
    """Says when weights go and how many are kept."""

    @property
    def final(self) -> float | None:
        """Density at the end; None where a pattern says it."""
        ...

    def check(self, state: TrainState) -> None:
        """Raise `InputError` if it does not fit the training."""

    def at_epoch(self, epoch: int) -> tuple[bool, float | None]:
        """Whether something goes before this epoch, and the density it leaves."""
        ...

    def at_step(self, step: int, steps_per_epoch: int) -> tuple[bool, float | None]:
        """The same after the optimizer step `step` (1 for the first)."""
        ...


@dataclass(frozen=True)
class Staged:
    """At each of some epochs the density falls to a given value; one epoch is one-shot pruning."""

    densities: Mapping[int, float | None]
    """Epoch → density; None for an N:M pattern."""

    @property
    def final(self) -> float | None:
        """The last one."""
        return self.densities[max(self.densities)] if self.densities else None

    def check(self, state: TrainState) -> None:
        """Raise unless every stage lies in the training and keeps less than the one before."""
        _check_epochs(self.densities, state)
        _check_falling([self.densities[epoch] for epoch in sorted(self.densities)])

    def at_epoch(self, epoch: int) -> tuple[bool, float | None]:
        """See `Schedule`."""
        return epoch in self.densities, self.densities.get(epoch)

    def at_step(self, step: int, steps_per_epoch: int) -> tuple[bool, float | None]:  # noqa: ARG002
        """Nothing happens between epochs."""
        return False, None


def one_shot(density: float | None, *, epoch: int = 0) -> Staged:
    """All at once before epoch `epoch`; 0 is at initialisation, 1 after one epoch of training (ECS)."""
    return Staged({epoch: density})


@dataclass(frozen=True)
class Polynomial:
    """Zhu & Gupta (1710.01878, equation 1): `s_t = s_f + (s_i − s_f)·(1 − t/T)^power`, with sparsity `s = 1 − density`."""

    density: float
    """At the end."""
    begin: float = 0.0
    """Epoch at which it starts."""
    end: float = 1.0
    """Epoch at which it has reached `density`; the rest of the training recovers."""
    every: int = 100
    """Steps between two removals."""
    initial: float = 1.0
    """Density at the beginning."""
    power: float = 3.0

    @property
    def final(self) -> float:
        """The density at the end."""
        return self.density

    def check(self, state: TrainState) -> None:
        """Raise unless it begins, ends and reaches its goal within the training."""
        if not 0 <= self.begin < self.end <= state.epochs:
            raise InputError(
                f"polynomial schedule from epoch {self.begin:g} to {self.end:g}",
                f"the training has {state.epochs} epochs",
                "let 0 ≤ begin < end ≤ epochs",
            )
        if self.every < 1 or self.power <= 0 or not 0 < self.density < self.initial <= 1:
            raise InputError(
                f"polynomial schedule {self}",
                "it does not fall",
                "let density < initial, power and every be positive",
            )

    def value(self, time: float) -> float:
        """The density at a time in epochs."""
        done = min(max((time - self.begin) / (self.end - self.begin), 0.0), 1.0)
        return self.density + (self.initial - self.density) * float((1 - done) ** self.power)

    def at_epoch(self, epoch: int) -> tuple[bool, float | None]:  # noqa: ARG002
        """Nothing happens between steps."""
        return False, None

    def at_step(self, step: int, steps_per_epoch: int) -> tuple[bool, float | None]:
        """See `Schedule`: every so many steps, and at the very end."""
        first, last = round(self.begin * steps_per_epoch), round(self.end * steps_per_epoch)
        due = first < step <= last and ((step - first) % self.every == 0 or step == last)
        level = self.value(step / steps_per_epoch) if step < last else self.density
        return due and level < 1, level


@dataclass(frozen=True)
class Rewind(Staged):
    """Prune, put the kept weights back to what they were early in training, train again.

    Frankle et al., 1903.01611, section 3. The optimizer's momentum is forgotten; the learning rate follows the
    training's own schedule.
    """

    to: int = 0
    """Epoch whose starting weights are put back."""

    def check(self, state: TrainState) -> None:
        """Raise unless each stage comes after the epoch that it goes back to."""
        super().check(state)
        if not 0 <= self.to < min(self.densities):
            raise InputError(
                f"rewind to epoch {self.to}",
                f"the first pruning is at epoch {min(self.densities)}",
                "prune later than the epoch that is gone back to",
            )


@dataclass(eq=False)
class Sparsify(Callback):
    """Follows a schedule while a network is trained: `ps.train(model, data, callbacks=[Sparsify(schedule)])`.

    A resumed training goes on with the masks it had. The history gets an entry `density` for each epoch.
    """

    schedule: Schedule
    importance: str = "magnitude"
    """As for `sparsify`. `movement` sums −w·g over the steps of the training itself."""
    data: Any = None
    """As for `sparsify`: for criteria that need gradients."""
    scope: str = "global"
    pattern: str = "element"
    ignore: Sequence[str] | str = ()
    min_density: float = 0.0
    batches: int | None = None
    batch_size: int = 128
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    seed: int = 0
    _moved: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _early: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _names: list[str] = field(default_factory=list, init=False, repr=False)

    def on_train_start(self, state: TrainState) -> None:
        """Check the options and put in masks that keep everything."""
        pattern = Pattern.parse(self.pattern)
        self.schedule.check(state)
        element_selection.check_density(self.schedule.final, pattern)
        element_selection.check_scope(self.scope)
        element_criteria.find(self.importance)
        _record.check_order(state.model, MaskStep)
        self._names = chosen_weights(state.model, self.ignore)
        layers = {weight_name(path): layer for path, layer in maskable(state.model).items()}
        known = masks_of(state.model)
        new = {
            name: torch.ones_like(layers[name]._parameters["weight"], dtype=torch.bool)  # type: ignore[arg-type]
            for name in self._names
            if name not in known
        }
        set_masks(state.model, new)
        paths = [name.rpartition(".")[0] for name in self._names]
        step = MaskStep(paths, self.importance, self.scope, str(pattern), self.schedule.final)
        if not new and step in _record.record(state.model):
            return
        _record.append(state.model, step)

    def on_epoch_start(self, state: TrainState) -> None:
        """Remove what is due before this epoch."""
        if isinstance(self.schedule, Rewind) and state.epoch == self.schedule.to:
            self._early = {name: tensor.clone() for name, tensor in state.model.named_parameters()}
        due, level = self.schedule.at_epoch(state.epoch)
        if due:
            self._remove(state, level)
            if isinstance(self.schedule, Rewind):
                self._rewind(state)

    @torch.no_grad()
    def on_backward(self, state: TrainState) -> None:
        """Sum the products for `movement`."""
        if self.importance != "movement":
            return
        parameters = dict(state.model.named_parameters())
        for name in self._names:
            weight = parameters[name]
            if weight.grad is not None:
                moved = self._moved.setdefault(name, torch.zeros_like(weight))
                moved.addcmul_(weight, weight.grad, value=-1.0)

    def on_step_end(self, state: TrainState) -> None:
        """Remove what is due after this step."""
        due, level = self.schedule.at_step(state.step, state.steps_per_epoch)
        if due:
            self._remove(state, level)

    def on_epoch_end(self, state: TrainState) -> None:
        """Note the density."""
        state.history[-1]["density"] = density(state.model)

    def state_dict(self) -> dict[str, Any]:
        """What `movement` and `Rewind` have kept."""
        return {"moved": dict(self._moved), "early": dict(self._early)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._moved, self._early = state["moved"], state["early"]

    def _remove(self, state: TrainState, level: float | None) -> None:
        count = self.batches or element_criteria.find(self.importance).batches
        source = batches_for(self.data, count, self.batch_size, self.seed)
        masks, _ = find_masks(
            state.model,
            self._names,
            Statistics(state.model, source, self.seed, self.loss, task_of(None, self.data)),
            density=level,
            importance=self.importance,
            scope=self.scope,
            pattern=Pattern.parse(self.pattern),
            min_density=self.min_density,
            scores=dict(self._moved) if self._moved else None,
        )
        set_masks(state.model, masks)
        if state.ema is not None:
            set_masks(state.ema, masks)

    @torch.no_grad()
    def _rewind(self, state: TrainState) -> None:
        for name, parameter in state.model.named_parameters():
            parameter.copy_(self._early[name])
        for hook in state.model.modules():
            if callable(step := getattr(hook, "after_optimizer_step", None)):
                step()
        state.optimizer.state.clear()


def _check_epochs(epochs: Mapping[int, Any], state: TrainState) -> None:
    if not epochs:
        raise InputError("staged schedule", "it has no stage", "pass {epoch: density}")
    outside = [epoch for epoch in epochs if not (isinstance(epoch, int) and 0 <= epoch < state.epochs)]
    if outside:
        raise InputError(
            f"pruning at epoch {outside[0]}",
            f"the training has epochs 0 to {state.epochs - 1}",
            "choose one of them, so that something is left to recover in",
        )


def _check_falling(densities: Sequence[float | None]) -> None:
    known = [value for value in densities if value is not None]
    if any(b >= a for a, b in itertools.pairwise(known)):
        raise InputError(
            f"densities {known}", "they do not fall from stage to stage", "e.g. {1: 0.5, 3: 0.2}"
        )


__all__ = ["Polynomial", "Rewind", "Schedule", "Sparsify", "Staged", "one_shot"]
