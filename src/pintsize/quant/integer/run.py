"""The integer reference: a quantized network computed as a device without floating point would.

The network's own forward runs under a dispatch mode. Beside each tensor that the simulation computes, the
integers that stand for it are carried: 8-bit values times 8-bit weights summed in 32 bits, biases of 32 bits,
and rescaling by a 31-bit multiplier and a shift (Jacob et al., 1712.05877, section 2.2). No integer is ever
taken from the simulation, so the two can be compared at each quantizer and at the end.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from ...data import images_of
from ...data.batches import size
from ...errors import InputError, InputTypeError, OperationError
from ...tables import Table, Tabular
from ..grid.quantizer import FakeQuantize
from ..network import convert
from ..network.neutral import given_back
from ..network.record import step_of
from ..ptq.ranges import round_biases
from . import rules as integer_rules
from .rules import DoesNotFit, Floats, Integers

_QUANTIZERS = frozenset({
    "quantize_dequantize", "fake_quantize_per_tensor_affine_cachemask",
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
})  # fmt: skip


@dataclass(frozen=True)
class IntegerComparison(Tabular):
    """How a simulated quantized network and its integers differ."""

    images: int
    agreement: float
    """Percent of the images with the same top class."""
    max_relative_error: float
    """Largest difference of two logits over the largest logit, of the worst image."""
    mean_relative_error: float
    """The same on average over the images."""
    max_steps: int
    """Largest difference of two integers behind a quantizer of activations."""
    different: float
    """Percent of those integers that differ at all."""
    float_ops: tuple[str, ...]
    """Operations without an integer form here; they were computed in floating point."""

    def __rich__(self) -> Table:
        """All figures, a line each."""
        rows = [
            ("same top class", f"{self.agreement:.2f} %"),
            ("difference of logits, worst image", f"{self.max_relative_error:.3g}"),
            ("difference of logits, mean", f"{self.mean_relative_error:.3g}"),
            ("integers that differ", f"{self.different:.3g} %"),
            ("by at most", f"{self.max_steps} step{'' if self.max_steps == 1 else 's'}"),
            ("in floating point", ", ".join(self.float_ops) or "nothing"),
        ]
        return Table(("integers against simulation", f"{self.images} images"), rows)


@dataclass
class IntegerResults:
    """What one batch gave."""

    integer: Any
    """The network's results by integers, as floats; structured like those of its forward."""
    simulated: Any
    """The network's results as it simulates quantization."""
    max_steps: int = 0
    different: int = 0
    """Integers that are not those of the simulation."""
    total: int = 0
    """Integers that were compared."""
    float_ops: dict[str, None] = field(default_factory=dict)


def compare_with_integers(
    model: nn.Module,
    data: Iterable[Any] | Tensor,
    *,
    images: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> IntegerComparison:
    """Hold the quantized `model` against its integer reference.

    Args:
        model: quantized, its activations too; with batch norms folded (others are computed in floating point).
        data: a split or any iterable of batches of images.
        images: how many to take; None for all.
        dtype: of the simulation. In float32 the sum of a layer is off by up to 10⁻⁶ or so, which can put a value on
            the other side of a rounding threshold where scales were not chosen against it (`quant.ties`).

    Raises:
        InputError: the model is not quantized, or there are no images.
        OperationError: a sum does not fit 32 bits.
    """
    _check(model)
    same = count = different = total = max_steps = 0
    worst, summed = 0.0, 0.0
    float_ops: dict[str, None] = {}
    model = exact_simulation(model) if dtype == torch.float64 else model
    for batch in images_of(data, images, model=model):
        exact = tree_map_only(Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, batch)
        found = run_integers(model, tree_map_only(Tensor, Tensor.contiguous, exact))
        ours, theirs = (_rows(result) for result in (found.integer, found.simulated))
        error = (ours - theirs).abs().amax(1) / theirs.abs().amax(1).clamp_min(1e-30)
        worst, summed = max(worst, float(error.max())), summed + float(error.sum())
        same += int((ours.argmax(1) == theirs.argmax(1)).sum())
        count, different, total = count + size(batch), different + found.different, total + found.total
        max_steps = max(max_steps, found.max_steps)
        float_ops.update(found.float_ops)
    if not count:
        raise InputError("data", "it holds no images", "pass data.val or a few batches of images")
    return IntegerComparison(
        count, 100 * same / count, worst, summed / count, max_steps, 100 * different / max(1, total), tuple(float_ops)
    )  # fmt: skip


@torch.no_grad()
def exact_simulation(model: nn.Module) -> nn.Module:
    """A float64 copy of the quantized `model` that computes what integers compute, bit for bit.

    Its weights and biases are exactly the multiples that their integers stand for, and its sums are exact, where
    those of float32 may put a value on the other side of a rounding threshold. It takes float64 images.

    Raises:
        InputError: the model is not quantized.
    """
    _check(model)
    made = copy.deepcopy(model)
    for _, layer in convert.weight_layers(made):
        quantizer, weight = layer._modules[convert.WEIGHT], layer._parameters.get("weight")
        assert isinstance(quantizer, FakeQuantize)
        if weight is not None and quantizer.bits > 1:
            scale = quantizer.along(weight, quantizer.scale.detach().double())
            weight.data = quantizer.to_int(weight).double() * scale
    made.double().requires_grad_(False)
    step = step_of(made)
    if step is not None:
        round_biases(made, step)
    return made


@torch.no_grad()
def run_integers(model: nn.Module, batch: Any) -> IntegerResults:
    """Run the quantized `model` in eval mode on `batch` (a tensor, or a tuple of inputs), with its integers.

    Raises:
        InputError: the model is not quantized, or its activations are not.
        OperationError: a sum does not fit 32 bits.
    """
    _check(model)
    modes = {module: module.training for module in model.modules()}
    mode = _IntegerMode(next((p.dtype for p in model.parameters()), torch.float32))
    try:
        model.eval()
        with mode:
            simulated = model(*batch) if isinstance(batch, tuple) else model(batch)
    finally:
        for module, training in modes.items():
            module.training = training
    mode.found.simulated = simulated
    mode.found.integer = tree_map(mode.result, simulated)
    return mode.found


def _check(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise InputTypeError(
            f"model of type {type(model).__name__}", "it is not a network", "pass an nn.Module"
        )
    if not convert.activation_quantizers(model):
        raise InputError(
            f"model {type(model).__name__}",
            "its activations are not quantized, so no integers stand for them",
            "quantize weights and activations first",
        )


class _IntegerMode(TorchDispatchMode):
    """Carries a shadow beside each tensor that depends on the input: `Integers`, or `Floats` without a rule."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.found = IntegerResults(None, None)
        self.shadows: Any = WeakTensorKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        own_args, own_kwargs = tree_map(self.shadow, (args, kwargs or {}))  # before it writes in place
        simulated = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.rstrip("_")
        same = given_back(func, args, kwargs or {}, simulated, self.shadows.__contains__)
        own = self.computed(name, func, own_args, own_kwargs, None if same is None else self.shadow(same))
        for tensor, shadow in zip(tree_leaves(simulated), tree_leaves(own), strict=False):
            if isinstance(tensor, Tensor) and isinstance(shadow, Integers | Floats):
                self.shadows[tensor] = shadow
                if isinstance(shadow, Integers) and name in _QUANTIZERS:
                    self.compare(tensor, shadow)
        return simulated

    def shadow(self, value: Any) -> Any:
        return self.shadows.get(value, value) if isinstance(value, Tensor) else value

    def result(self, value: Any) -> Any:
        """A result of the network, as its integers say."""
        own = self.shadow(value)
        return own.to_float().to(value.dtype) if isinstance(own, Integers | Floats) else value

    def computed(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], same: Any) -> Any:
        """The shadow of what `func` returns, or None; `same` is that of what it gives back as it is, if it does."""
        rule = integer_rules.RULES.get(name)
        if rule is not None:
            try:
                found = rule(func, *args, **kwargs)
            except DoesNotFit as error:
                raise OperationError(
                    f"operation {name}", str(error), "use fewer bits, or a layer with fewer inputs"
                ) from error
            if found is not NotImplemented:
                return found
        if isinstance(same, Integers | Floats):
            return same
        if not any(isinstance(leaf, Integers | Floats) for leaf in tree_leaves((args, kwargs))):
            return None
        self.found.float_ops.setdefault(name)
        args, kwargs = tree_map(lambda leaf: _as_floats(leaf, self.dtype), (args, kwargs))
        return tree_map(
            lambda leaf: Floats(leaf) if isinstance(leaf, Tensor) else leaf, func(*args, **kwargs)
        )

    def compare(self, simulated: Tensor, own: Integers) -> None:
        """Count the integers that are not those of the simulation, unless they are of a weight."""
        if own.scale.numel() > 1:
            return
        steps = (torch.round(simulated.double() / own.scale) - own.values).abs()
        found = self.found
        found.max_steps = max(found.max_steps, int(steps.max()) if steps.numel() else 0)
        found.different += int((steps > 0).sum())
        found.total += steps.numel()


def _as_floats(value: Any, dtype: torch.dtype) -> Any:
    return value.to_float().to(dtype).clone() if isinstance(value, Integers | Floats) else value


def _rows(result: Any) -> Tensor:
    """The first floating result of a batch, one row for each image, float64."""
    leaf = next(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_floating_point())
    return leaf.double().flatten(1)
