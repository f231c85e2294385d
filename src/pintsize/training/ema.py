"""A moving average of the weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .hooks import optimizer_step_hooks


class Ema:
    """A copy of `model` whose parameters follow it: `e ← d·e + (1-d)·w` after each step.

    `d` rises as `min(decay, (1+n)/(10+n))` over the updates `n`, so that the start is soon forgotten.
    Buffers (statistics, masks, ranges) are copied, not averaged.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay
        self._updates = 0
        pairs = list(zip(self.module.parameters(), model.parameters(), strict=True))
        self._averages: list[Tensor] = [average for average, own in pairs if own.is_floating_point()]
        self._weights: list[Tensor] = [own for _, own in pairs if own.is_floating_point()]
        self._hooks = optimizer_step_hooks(self.module)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Follow one step of `model`."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)
        if buffers := list(model.buffers()):
            torch._foreach_copy_(list(self.module.buffers()), buffers)
        for hook in self._hooks:
            hook()  # a mask that has just grown holds in the average too

    def state_dict(self) -> dict[str, Any]:
        """Weights and number of updates."""
        return {"updates": self._updates, "model": dict(self.module.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._updates = state["updates"]
        self.module.load_state_dict(state["model"])
