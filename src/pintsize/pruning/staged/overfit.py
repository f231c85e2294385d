"""Training without regularisation, to overfit first and prune afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ...data.batches import run, split_batch
from ...errors import InputError
from ...tables import judged
from ...tasks import task_of
from ...training import evaluate
from ...training.callbacks import Callback, TrainState

UNREGULARIZED = {"augment": False, "weight_decay": 0.0, "label_smoothing": 0.0}
"""Options of `pintsize.train` that go with `Unregularized`."""


@dataclass(eq=False)
class Unregularized(Callback):
    """Dropout is off, and batch norms take fixed statistics: `ps.train(…, callbacks=[Unregularized(data)])`.

    Batch norm regularises because each image is normalised by the others of its batch (Luo et al., 1809.00846).
    Here it takes the mean and variance over training images, measured anew before each epoch, so that an image's
    output depends on that image alone. Weight decay, label smoothing and augmentation are options of the
    training: turn them off there (`**UNREGULARIZED`).
    """

    data: Any
    """From `pintsize.data.load`; its training images are looked at."""
    until: float | None = None
    """Stop once training accuracy has reached so many percent; of another task, its metric on the training images."""
    images: int = 2048
    """Training images that the statistics are taken over."""
    seed: int = 0
    task: Any = None
    """See `pintsize.train`; by default that of the data."""

    def __post_init__(self) -> None:
        self._task = task_of(self.task, self.data)
        if self.until is not None:
            self._check_until(self.until)
        if isinstance(self.images, bool) or not isinstance(self.images, int) or self.images < 2:
            raise InputError(
                f"images={self.images!r}", "statistics need at least two", "pass a number of images"
            )

    def _check_until(self, until: float) -> None:
        if self._task.key == "accuracy" and not 0 < until <= 100:
            raise InputError(f"until={until!r}", "it is no accuracy", "pass percent, e.g. 99.9")
        metric = self._task.judged()
        if isinstance(until, bool) or not isinstance(until, int | float) or not math.isfinite(until):
            raise InputError(f"until={until!r}", "it is no number", f"pass {metric.name} to be reached")

    def on_epoch_start(self, state: TrainState) -> None:
        """Measure the statistics, then fix them and turn dropout off."""
        norms = [m for m in state.model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        for module in state.model.modules():
            if isinstance(module, _DropoutNd | nn.MultiheadAttention):  # attention has a dropout of its own
                module.eval()
        if norms:
            self._measure(state, norms)
        for norm in norms:
            norm.eval()

    def on_epoch_end(self, state: TrainState) -> None:
        """Stop when there is nothing left to fit."""
        if self.until is None:
            return
        entry, task = state.history[-1], self._task
        reached = judged(entry, "train_")
        if reached is None:
            reached = entry[f"train_{task.key}"] = evaluate(state.model, self.data.train, task=task)
        if task.judged().worse(self.until, reached) <= 0:
            state.stop = True

    @torch.no_grad()
    def _measure(self, state: TrainState, norms: list[_BatchNorm]) -> None:
        chosen = self.data.train.at_most(self.images, self.seed)
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over batches
            norm.train()
        for batch in chosen.batches(batch_size=min(256, len(chosen)), device=state.device, drop_last=True):
            inputs, targets = split_batch(batch, state.model)
            if self._task.own_step:  # such a network wants its targets, too
                self._task.step(state.model, inputs, targets)
            else:
                run(state.model, inputs)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


__all__ = ["UNREGULARIZED", "Unregularized"]
