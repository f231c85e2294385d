"""What others may do during a training: masks, attention with its own optimizer, late freezing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .history import History


@dataclass(eq=False)
class TrainState:
    """What the loop shows to callbacks; they may change `model`'s values, not its structure."""

    model: nn.Module
    """The network itself, never a distributed wrapper."""
    optimizer: Optimizer
    device: torch.device
    epochs: int
    steps_per_epoch: int
    epoch: int = 0
    """Index of the running epoch, from 0."""
    step: int = 0
    """Optimizer steps done since the training began."""
    lr: float = 0.0
    history: History = field(default_factory=History)
    """Entry of the epoch just finished is the last one in `on_epoch_end`; keys may be added to it."""
    ema: nn.Module | None = None
    """The averaged copy of `model`, if there is one."""
    stop: bool = False
    """Set it to end the training after the running epoch."""


class Callback:
    """Base class: override what you need.

    Order in an epoch: `on_epoch_start` (the model is in train mode; freezing a batch norm by `.eval()`
    belongs here, as does `requires_grad_`), then for each step `penalty`, `on_backward`, the optimizer,
    every submodule's `after_optimizer_step()`, `on_step_end`; then `on_epoch_end`, after validation and
    before the checkpoint. Of several processes each calls its own.
    """

    def own_parameters(self, model: nn.Module) -> Iterable[nn.Parameter]:  # noqa: ARG002
        """Parameters that this callback steps itself; the loop's optimizer leaves them alone."""
        return ()

    def on_train_start(self, state: TrainState) -> None:
        """Before the first step, and again at each resume (`load_state_dict` follows)."""

    def on_epoch_start(self, state: TrainState) -> None:
        """Before each epoch."""

    def penalty(self, state: TrainState) -> Tensor | None:  # noqa: ARG002
        """A scalar to add to the loss of this step, or None."""
        return None

    def on_backward(self, state: TrainState) -> None:
        """Gradients are there, the optimizer has not stepped."""

    def on_step_end(self, state: TrainState) -> None:
        """After each optimizer step."""

    def on_epoch_end(self, state: TrainState) -> None:
        """After each epoch and its validation."""

    def configuration(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be taken up: plain Python types alone."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs: tensors and plain Python types alone."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
