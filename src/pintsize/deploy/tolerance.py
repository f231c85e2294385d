"""What rounding alone can do to the outputs of a network: the tolerance that a file is judged by.

Two runtimes add the same numbers in another order, so their float32 sums differ in the last places. In a float network
that stays as small as it is. In a quantized one it can put a value that lies on the edge between two integers on the
other side, at every quantizer, and the layers behind see a whole step. How far that goes depends on how many quantized
layers there are and on their bits, so it is measured: the simulation runs again, with every sum moved by as much as
another order would, and every bias by as much as the integer it is stored as (a multiple of weight scale times input
scale; `quantize` gives it such a value, training may move it off).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from ..graph.trace import DispatchMode

FLOAT = 1e-4
"""Difference of two float32 networks over the largest output that rounding may explain."""
_ULPS = 5e-7
"""Of a float32 sum, over its largest value: 4 units in the last place."""
_RUNS, _MARGIN = 8, 4.0
_MOST = 0.25
"""Of the output: beyond it no difference is taken for rounding, whatever a network does to it."""
_SUMS = {"convolution", "_convolution", "addmm", "mm", "bmm", "baddbmm", "linear", "mean", "sum", "native_batch_norm",
         "_native_batch_norm_legit_no_training", "native_layer_norm", "native_group_norm", "_softmax", "var_mean",
         "avg_pool2d", "avg_pool1d", "_adaptive_avg_pool2d", "cumsum", "upsample_bilinear2d", "upsample_bicubic2d",
         "_scaled_dot_product_flash_attention_for_cpu", "_fused_rms_norm", "batch_norm", "mkldnn_rnn_layer",
         "gru", "lstm", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "grid_sampler_2d"}  # fmt: skip
_EACH = {"sigmoid", "tanh", "exp", "log", "gelu", "silu", "hardsigmoid", "hardswish", "elu", "mish", "softplus", "div",
         "mul", "add", "sub", "pow", "sqrt", "rsqrt", "leaky_relu", "erf"}  # fmt: skip


def outputs_of(result: Any) -> list[Tensor]:
    """The tensors in what a network or a runtime gives, in order, whatever its structure."""
    return [leaf.detach().cpu() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


NEAR_ONE = 2.4e-7
"""Two float32 spacings at 1."""


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest value wanted; infinite if shapes differ or one alone is not finite.

    What a sigmoid gives is exact to the spacing of numbers near 1, however small it is: that much is no difference.
    """
    if found.shape != wanted.shape:
        return float("inf")
    if not wanted.numel():
        return 0.0
    if not (wanted.is_floating_point() and found.is_floating_point()):
        return float((found != wanted).double().mean())  # classes, masks: the share that differs
    a, b = found.double(), wanted.double()
    alike = (a == b) | (a.isnan() & b.isnan())
    gap = (torch.where(alike, 0.0, (a - b).abs()).max() - NEAR_ONE).clamp_min(0)
    scale = b[b.isfinite()].abs().max() if b.isfinite().any() else torch.ones(())
    error = float(gap / scale) if scale > 0 else float(gap)
    return error if error == error else float("inf")  # noqa: PLR0124 (NaN)


def explained(
    compute: Callable[[], Any],
    wanted: Sequence[Tensor],
    measure: Callable[[Tensor, Tensor], float] = relative_error,
    *,
    enough: Sequence[float],
) -> list[float]:
    """For each output, the difference that rounding explains.

    Args:
        compute: runs the simulation; called a few times.
        wanted: its outputs.
        measure: of the difference of two tensors.
        enough: the differences that are to be explained: no more runs once they are.
    """
    most = [0.0] * len(wanted)
    for seed in range(_RUNS):
        if all(asked <= given for asked, given in zip(enough, _tolerances(most), strict=True)):
            break
        with torch.no_grad(), _OtherOrder(seed):
            result = compute()
        moved = outputs_of(result)
        if len(moved) == len(wanted):
            most = [
                max(before, measure(one, other))
                for before, one, other in zip(most, moved, wanted, strict=True)
            ]
    return _tolerances(most)


def _tolerances(most: Sequence[float]) -> list[float]:
    return [min(_MOST, FLOAT + _MARGIN * each) for each in most]


class _OtherOrder(DispatchMode):
    """Moves the results of float arithmetic by a few units in the last place; quantizers and moves stay exact."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)
        self._steps: Any = WeakTensorKeyDictionary()
        """Tensors on a quantizer's grid → its scale."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if "quantize" in name and not isinstance(
            args[0], nn.Parameter
        ):  # a value of one grid on the edge of another
            x = args[0]
            args = (x + self._normal(x) * (_ULPS * x.abs()), *args[1:])
        result = func(*args, **(kwargs or {}))
        own = name.removesuffix("_")
        first = next((leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)), None)
        if own not in _SUMS | _EACH or first is None or not first.is_floating_point():
            self._follow(own, args, result)
            return result
        size = first.abs().amax() if own in _SUMS and first.numel() else first.abs()
        noise = self._normal(first) * (_ULPS * size)
        noise += self._bias(own, args, first)
        if name != own:  # in place
            return first.add_(noise)
        return first + noise if isinstance(result, Tensor) else (first + noise, *result[1:])

    def _normal(self, like: Tensor) -> Tensor:
        drawn: Tensor = torch.randn(like.shape, generator=self._generator).to(like)
        return drawn

    def _follow(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        """Note the scale of what a quantizer gives, and of what is only moved."""
        if "quantize" in name:
            step: Tensor | None = args[1] if isinstance(args[1], Tensor) else torch.tensor(args[1])
        else:
            given = next((leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)), None)
            step = None if given is None else self._steps.get(given)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and step is not None:
                self._steps[leaf] = step

    def _bias(self, name: str, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """How far the bias of a layer is moved: up to half the step of its integer."""
        zero = torch.zeros((), device=output.device)
        if name == "convolution":
            x, weight, bias = args[:3]
        elif name == "addmm":
            bias, x, weight = args[:3]
        else:
            return zero
        of_x, of_weight = self._steps.get(x), self._steps.get(weight)
        if bias is None or of_x is None or of_weight is None:
            return zero
        if of_x.numel() != 1 or of_weight.numel() not in (1, bias.numel()):
            return zero
        moved: Tensor = (torch.rand(bias.shape, generator=self._generator).to(output) - 0.5) * (
            of_x * of_weight
        )
        return moved.view(-1, *[1] * (output.dim() - 2)) if name == "convolution" else moved
