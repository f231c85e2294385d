"""The way a submodule keeps a constraint on its weights while they are trained."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def optimizer_step_hooks(model: nn.Module) -> list[Callable[[], None]]:
    """`after_optimizer_step` of every submodule that has one, in the order of `model.modules()`."""
    found = (getattr(module, "after_optimizer_step", None) for module in model.modules())
    return [hook for hook in found if callable(hook)]
