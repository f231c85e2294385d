"""Mixed precision: each layer gets the bits that lose least under a budget of bytes or time.

For each layer and each width alone the error of the network's results is measured. Errors of several
layers add up nearly (Dong et al., 1911.03852, section 3.2, take the same sum over layers), so the choice is
an integer program: one width per layer, least sum of errors, cost within the budget.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...data.batches import Inputs, run
from ...errors import InputError
from ...registry import Registry
from ...tables import Table, Tabular
from ..grid.quantizer import FakeQuantize, check_bits
from ..network import convert
from ..network.record import step_of
from ..ptq.calibrate import calibration_batches, example_of, quantize
from ..ptq.progress import bar

_SCALE_BYTES = 4
TIMERS: Registry[Callable[..., Mapping[str, Any]]] = Registry("layer timer")
"""Runtime → what times layers alone in it, in floating point and in integers."""
Costs = Mapping[str, Mapping[int | None, float]]
"""Layer → width → cost in one unit: bytes, milliseconds."""


@dataclass(frozen=True)
class LayerBits:
    """What was chosen for a layer."""

    name: str
    bits: int | None
    """None: it stays in floating point."""
    error: float
    """Relative squared error of the network's results if this layer alone has these bits."""
    cost: float
    """Bytes of its weights, or milliseconds."""


@dataclass(frozen=True)
class BitPlan(Tabular):
    """The bits of every layer; `weights` and `activations` are options of `quantize`."""

    layers: tuple[LayerBits, ...]
    unit: str
    """'bytes' or 'ms'."""
    budget: float
    """The cost may be at most this."""
    errors: dict[str, dict[int | None, float]]
    """Layer → width → error of the network's results."""
    costs: dict[str, dict[int | None, float]]
    """Layer → width → cost."""
    activation_bits: int | None

    @property
    def weights(self) -> dict[str, int | None]:
        """Layer → bits of its weight."""
        return {layer.name: layer.bits for layer in self.layers}

    @property
    def activations(self) -> dict[str, int | None] | None:
        """Layer → bits of what it reads; None if activations stay in floating point."""
        if self.activation_bits is None:
            return None
        return {layer.name: self.activation_bits if layer.bits else None for layer in self.layers}

    @property
    def cost(self) -> float:
        """Of all layers."""
        return math.fsum(layer.cost for layer in self.layers)

    @property
    def error(self) -> float:
        """Sum of the layers' errors: what the program minimised."""
        return math.fsum(layer.error for layer in self.layers)

    def __rich__(self) -> Table:
        """Bits, error and cost of each layer, and their sum beside the budget."""
        rows = [
            (one.name, str(one.bits or "fp32"), f"{one.error:.3g}", f"{one.cost:,.6g}") for one in self.layers
        ]
        total = ("sum", "", f"{self.error:.3g}", f"{self.cost:,.6g} of {self.budget:,.6g}")
        return Table(("layer", "bits", "error", self.unit), rows, total)


def choose_bits(
    model: nn.Module,
    *,
    calibration: Iterable[Any] | Tensor,
    widths: Sequence[int | None] | None = None,
    activations: int | None = 8,
    bytes: float | None = None,
    latency: float | None = None,
    costs: Costs | None = None,
    ignore: Sequence[str] = (),
    example: Any = None,
    calibration_images: int = 128,
    threads: int = 2,
    progress: bool | None = None,
) -> BitPlan:
    """Choose each layer's bits under a budget; `quantize(model, weights=plan.weights, …)` then applies them.

    Args:
        model: any network that is not quantized; unchanged.
        calibration: a split or any iterable of batches of images.
        widths: what a layer may have, 1 to 8 bits or None for floating point; by default 2, 3, 4, 6 and 8,
            under a latency budget 8 and None.
        activations: bits of what quantized layers read, None to leave activations in floating point.
        bytes: fraction of the layers' float32 weight bytes to keep, above 0 to 1.
        latency: fraction of the layers' summed float32 time to keep, each timed alone in ONNX Runtime.
        costs: measured elsewhere, layer → width → cost; `bytes` or `latency` is then the fraction of the
            dearest choice.
        ignore: patterns of layers that stay in floating point and are not counted.
        example: an input to trace the network with; by default of the first calibration batch.
        calibration_images: how many images errors are measured on.
        threads: of the runtime in which layers are timed.
        progress: show a progress bar; None: on a terminal.

    Raises:
        InputError: not exactly one budget, one out of range or that no choice keeps, widths out of range, or
            whatever `quantize` refuses.
    """
    budget, unit = _budget(bytes, latency)
    widths = _widths(widths, unit)
    images = calibration_batches(model, calibration, calibration_images)
    example = example_of(example, images)
    errors, sizes = _errors(
        model, images, widths, activations=activations, ignore=ignore, example=example, progress=progress
    )
    if costs is not None:
        found = _given(costs, errors)
        whole = math.fsum(max(row.values()) for row in found.values())
    elif unit == "bytes":
        found = {name: {width: _weight_bytes(*sizes[name], width) for width in widths} for name in errors}
        whole = math.fsum(_weight_bytes(*sizes[name], None) for name in errors)
    else:
        timed = TIMERS["onnxruntime"](model, example, list(errors), activations=activations, threads=threads)
        found = {
            name: {width: timed[name].floating if width is None else timed[name].integer for width in widths}
            for name in errors
        }
        whole = math.fsum(times.floating for times in timed.values())
    return _planned(errors, found, budget * whole, unit, activations)


def _planned(
    errors: dict[str, dict[int | None, float]],
    costs: dict[str, dict[int | None, float]],
    budget: float,
    unit: str,
    activations: int | None,
) -> BitPlan:
    """The plan of least error within `budget`."""
    chosen = solve(errors, costs, budget, unit=unit)
    layers = tuple(
        LayerBits(name, width, errors[name][width], costs[name][width]) for name, width in chosen.items()
    )
    return BitPlan(layers, unit, budget, errors, costs, activations)


def solve(errors: Costs, costs: Costs, budget: float, *, unit: str = "bytes") -> dict[str, int | None]:
    """The widths of least summed error whose summed cost keeps `budget`, by integer programming (HiGHS).

    Args:
        errors: layer → width → error.
        costs: layer → width → cost.
        budget: in the unit of the costs.
        unit: for the message.

    Raises:
        InputError: even the cheapest choice is over the budget.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    least = math.fsum(min(row.values()) for row in costs.values())
    if least > budget:
        raise InputError(
            f"budget of {budget:,.6g} {unit}",
            f"the cheapest choice of bits costs {least:,.6g}",
            "raise the budget or allow fewer bits in widths",
        )
    pairs = [(name, width) for name in errors for width in errors[name]]
    rows = {name: number for number, name in enumerate(errors)}
    one_each = csr_array(
        (np.ones(len(pairs)), ([rows[name] for name, _ in pairs], range(len(pairs)))),
        shape=(len(rows), len(pairs)),
    )
    error = np.array([errors[name][width] for name, width in pairs])
    cost = np.array([[costs[name][width] for name, width in pairs]])
    size = max(budget, float(np.abs(cost).max()), 1e-300)  # the solver's tolerances are absolute
    found = milp(
        error / max(float(np.abs(error).max()), 1e-300),
        integrality=np.ones(len(pairs)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(cost / size, ub=budget / size)],
        options={"mip_rel_gap": 0.0},
    )
    assert found.x is not None, found.message
    return {name: width for (name, width), taken in zip(pairs, found.x, strict=True) if taken > 0.5}


def _budget(size: float | None, latency: float | None) -> tuple[float, str]:
    given = {name: value for name, value in (("bytes", size), ("latency", latency)) if value is not None}
    if len(given) != 1:
        raise InputError(
            f"bytes={size}, latency={latency}", "exactly one budget decides the bits", "pass bytes=0.125"
        )
    name, value = next(iter(given.items()))
    if not 0 < value <= 1:
        raise InputError(
            f"{name}={value}",
            "it is the fraction to keep, above 0 to 1",
            "pass bytes=0.125 for 4 bits on average",
        )
    return value, "bytes" if name == "bytes" else "ms"


def _widths(widths: Sequence[int | None] | None, unit: str) -> list[int | None]:
    if widths is None:
        return [2, 3, 4, 6, 8] if unit == "bytes" else [8, None]
    found = list(dict.fromkeys(widths))
    if not any(found):
        raise InputError(f"widths={tuple(found)}", "it holds no number of bits", "pass (2, 4, 8)")
    for width in found:
        if width is not None:
            check_bits(width, "widths", lowest=1)
    return found


def _weight_bytes(count: int, channels: int, width: int | None) -> float:
    """Of a weight of `count` numbers with a scale for each of `channels`."""
    return 4.0 * count if width is None else math.ceil(count * width / 8) + _SCALE_BYTES * channels


def _given(costs: Costs, errors: Costs) -> dict[str, dict[int | None, float]]:
    for name, row in errors.items():
        for width in row:
            if width not in costs.get(name, {}):
                raise InputError(
                    f"costs of layer {name}",
                    f"there is none for {'floating point' if width is None else f'{width} bits'}",
                    "give a cost for every layer and each of widths",
                )
    return {name: {width: float(costs[name][width]) for width in row} for name, row in errors.items()}


@torch.no_grad()
def _errors(
    model: nn.Module,
    images: list[Inputs],
    widths: Sequence[int | None],
    *,
    activations: int | None,
    ignore: Sequence[str],
    example: Any,
    progress: bool | None,
) -> tuple[dict[str, dict[int | None, float]], dict[str, tuple[int, int]]]:
    """Layer → width → error, and layer → (number of weights, output channels)."""
    errors: dict[str, dict[int | None, float]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    wanted: list[Tensor] | None = None
    steps = [width for width in widths if width is not None]
    with bar("measure layers", len(steps), progress) as advance:
        for width in steps:
            work = copy.deepcopy(model).eval()
            quantize(
                work, weights=width, activations=activations, calibration=images, example=example,
                ignore=ignore, edges=None, progress=False,
            )  # fmt: skip
            for quantizer in convert.quantizers(work):
                quantizer.enabled = False
            wanted = [_results(work, batch) for batch in images] if wanted is None else wanted
            for name, layer, own in _switches(work):
                weight = layer.weight
                assert isinstance(weight, Tensor)
                sizes[name] = (weight.numel(), len(own[0].scale))
                errors.setdefault(name, dict.fromkeys(widths, 0.0))[width] = _error(work, own, images, wanted)
            advance()
    return errors, sizes


def _switches(model: nn.Module) -> Iterable[tuple[str, nn.Module, list[FakeQuantize]]]:
    """Each layer with its quantizers: of the weight, and of what it reads."""
    step = step_of(model)
    assert step is not None
    activations = convert.activation_quantizers(model)
    for name, layer in convert.weight_layers(model):
        weight = layer._modules[convert.WEIGHT]
        assert isinstance(weight, FakeQuantize)
        reads = [activations[key] for key in (step.inputs.get(name), name) if key in activations]
        yield name, layer, [weight, *reads]


def _error(model: nn.Module, own: list[FakeQuantize], images: list[Inputs], wanted: list[Tensor]) -> float:
    """Relative squared error of the results with the quantizers `own` alone."""
    for quantizer in own:
        quantizer.enabled = True
    try:
        wrong = sum(
            float((_results(model, batch) - goal).square().sum())
            for batch, goal in zip(images, wanted, strict=True)
        )
    finally:
        for quantizer in own:
            quantizer.enabled = False
    return wrong / max(sum(float(goal.square().sum()) for goal in wanted), 1e-300)


def _results(model: nn.Module, batch: Inputs) -> Tensor:
    """All floating results of the network in one row, float64."""
    leaves = [
        leaf
        for leaf in tree_leaves(run(model, batch))
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    ]
    return torch.cat([leaf.double().flatten() for leaf in leaves])
