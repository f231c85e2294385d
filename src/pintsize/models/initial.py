"""Weights before training."""

from __future__ import annotations

from typing import Literal

from torch import nn


def kaiming(
    model: nn.Module, *, mode: Literal["fan_in", "fan_out"] = "fan_out", linear_std: float | None = None
) -> None:
    """Draw convolution weights from N(0, 2/fan) and set their biases to 0 (He et al., 1502.01852, §2.2).

    Batch norms already start as the identity in PyTorch.

    Args:
        model: changed in place.
        mode: which fan to keep the variance of.
        linear_std: also draw linear weights from N(0, linear_std²), biases 0; None keeps PyTorch's own.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, 0.0, linear_std)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
