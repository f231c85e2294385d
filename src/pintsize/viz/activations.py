"""An image on its way through the network: the input and what every activation function gives."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import InputError
from ..graph.trace import record
from . import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

aten = torch.ops.aten
_ACTIVATIONS = frozenset({
    aten.relu, aten.relu_, aten.hardtanh, aten.hardtanh_, aten.leaky_relu, aten.leaky_relu_, aten.prelu,
    aten._prelu_kernel, aten.elu, aten.elu_, aten.silu, aten.silu_, aten.gelu, aten.hardswish, aten.hardswish_,
})  # fmt: skip
"""ReLU, ReLU6 (hardtanh in ATen) and their kin."""


def display_activations(model: nn.Module, image: Tensor, *, most: int = 40) -> Figure:
    """The input and the output of every ReLU (functional ones too), averaged over channels.

    Args:
        model: any network; run in eval mode, unchanged.
        image: [C, H, W] or [1, C, H, W].
        most: activations drawn, the first ones.

    Raises:
        InputError: `image` is not one image, or the network has no ReLU on its way.
        OperationError: the forward fails on it.
    """
    batch = image[None] if image.dim() == 3 else image
    if batch.dim() != 4 or len(batch) != 1:
        raise InputError(f"image of shape {tuple(image.shape)}", "it is not one image", "pass [C, H, W]")
    names = [
        op.module or "(root)" for op in record(model, batch).ops if op.func.overloadpacket in _ACTIVATIONS
    ]
    if not names:
        raise InputError(
            f"model {type(model).__name__}", "no ReLU runs in its forward", "pass a network with ReLUs"
        )
    outputs = _capture(model, batch)
    shown = list(zip(names, outputs, strict=True))[:most]
    columns = min(5, len(shown) + 1)
    rows = ceil((len(shown) + 1) / columns)
    figure, grid = style.figure(rows, columns, height=1.15 * rows + 0.4)
    for axes in grid:
        axes.set_axis_off()
    grid[0].imshow(style.picture(batch[0]), cmap="gray")
    grid[0].set_title("input", fontsize=7.5, color=style.INK, pad=2)
    for axes, name, (module, output) in zip(grid[1:], _short(names), shown, strict=False):
        plane = output[0].mean(dim=0) if output.dim() == 4 else output[0].reshape(1, -1)
        axes.imshow(plane.numpy(), cmap=style.HEAT, aspect="equal" if output.dim() == 4 else "auto")
        axes.set_title(name, fontsize=7.5, color=style.INK, pad=2)
        del module
    style.head(figure, "Activations, mean over channels")
    dead = [(output == 0).double().mean().item() for _, output in shown]
    return style.describe(
        figure,
        f"The input and {len(shown)} activations as heat maps; {100 * sum(dead) / len(dead):.0f} % of the "
        f"values are zero on average.",
    )


def _capture(model: nn.Module, batch: Tensor) -> list[Tensor]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    catcher = _Catcher()
    try:
        with torch.no_grad(), catcher:
            model(batch)
    finally:
        for module, mode in training.items():
            module.training = mode
    return catcher.caught


class _Catcher(TorchDispatchMode):
    """Keeps a copy of what activation functions give, before an in-place op can change it."""

    def __init__(self) -> None:
        super().__init__()
        self.caught: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in _ACTIVATIONS:
            self.caught.append(result.detach().float().cpu().clone())
        return result


def _short(names: list[str]) -> list[str]:
    return style.short_names([f"{number} {name}" for number, name in enumerate(names, 1)], 18)
