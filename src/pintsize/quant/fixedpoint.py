"""Fixed point: parameters, activations and batch norms in few bits each, without scales per channel.

Parameters are rounded where they are. A batch norm has four tensors of which a small variance, rounded to zero,
ruins the network; what hardware multiplies by are the factor `γ/√(σ²+ε)` and the shift `β − μ·factor`, so those are
rounded, and the norm holds them with mean 0 and variance 1 from then on. Activations are rounded behind each
layer, addition and pool, where integer kernels would; their ranges come from training images.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..data.batches import Inputs, run
from ..errors import InputError, InputTypeError
from ..graph import trace
from ..storage.record import Step, append, check_order, register
from ..tables import Table, Tabular
from .grid.levels import FixedPoint, Mode, check_mode
from .network import convert, flow, patterns, placement
from .network.placement import Place, Placement
from .network.record import activation_json
from .ptq.calibrate import calibration_batches, example_of
from .ptq.progress import bar
from .ptq.ranges import check_inputs, check_seen, inputs

_SAMPLE = 1 << 14  # values kept of each batch of an activation


@register
@dataclass(frozen=True)
class FixedPointStep(Step):
    """Parameters were rounded; activations have quantizers, whose ranges are tensors of the model."""

    kind: ClassVar[str] = "fixed-point"
    may_follow: ClassVar[frozenset[str]] = frozenset(
        {"prune", "depth", "mask", "scatter", "bake", "fold", "cluster"}
    )
    reason: ClassVar[str] = "weights and activations are rounded already"

    mode: Mode = "linear"
    """How levels are laid out."""
    activations: list[dict[str, Any]] = field(default_factory=list)
    """Name, bits and places of each quantizer of activations."""
    norms: list[str] = field(default_factory=list)
    """Paths of the batch norms that were rounded."""

    def apply(self, model: nn.Module) -> None:
        """Put in the quantizers, uncalibrated, and give norms a factor and a shift."""
        for path in self.norms:
            _make_affine(model.get_submodule(path))
        places = [
            Placement(entry["name"], entry["bits"], [Place(*place) for place in entry["places"]])
            for entry in self.activations
        ]
        convert.quantize_activations(model, places, make=lambda place: FixedPoint(place.bits, self.mode))


@dataclass(frozen=True)
class FixedPointTensor:
    """A parameter or an activation in fixed point."""

    name: str
    kind: str
    """'parameter', 'norm' or 'activation'."""
    bits: int
    low: float
    """Smallest value there is a level for; of magnitudes in mode 'log'."""
    high: float
    fraction_bits: int | None
    """Mode 'linear': bits behind the point, negative if the last of the integer bits are missing."""
    overflow: float
    """Share of the values beyond the levels (of the sampled ones, for activations)."""


@dataclass(frozen=True)
class FixedPointResult(Tabular):
    """What `fixed_point` did."""

    mode: str
    tensors: tuple[FixedPointTensor, ...]
    constants: tuple[str, ...] = ()
    """Activations that are constant on all calibration images."""

    def __rich__(self) -> Table:
        """Bits, ends and overflow of each tensor."""
        rows = [
            (
                one.name, one.kind, str(one.bits), "" if one.fraction_bits is None else str(one.fraction_bits),
                f"{one.low:.4g}", f"{one.high:.4g}", f"{100 * one.overflow:.3f} %",
            )
            for one in self.tensors
        ]  # fmt: skip
        return Table(("tensor", "kind", "bits", "fraction", "low", "high", "overflow"), rows, words=2)


def fixed_point(
    model: nn.Module,
    *,
    weights: int | None = 8,
    activations: int | None = 8,
    norm: int | None = 10,
    mode: Mode = "linear",
    overflow_rate: float = 0.0,
    calibration: Iterable[Any] | Tensor | None = None,
    ignore: Sequence[str] = (),
    example: Any = None,
    calibration_images: int = 512,
    progress: bool | None = None,
) -> FixedPointResult:
    """Put `model` into fixed point in place, one range per tensor. On any error the model is as it was.

    Args:
        model: any network.
        weights: bits of weights and biases of convolutions and linear layers, 2 to 16, or 32 to compare with; None leaves
            them float.
        activations: bits of what those layers read and give.
        norm: bits of the factor and the shift of each batch norm.
        mode: how levels are laid out: 'linear', 'minmax', 'log' or 'tanh' (see `FixedPoint`).
        overflow_rate: share of the values of a tensor that may lie beyond the range, 0 to below 1.
        calibration: a split or any iterable of batches of training images; needed for activations.
        ignore: patterns of layers that stay in floating point.
        example: an input to trace the network with; by default of the first calibration batch.
        calibration_images: how many images to look at.
        progress: show a progress bar; None: on a terminal.

    Raises:
        InputError: bits or rate out of range, an unknown mode, a pattern that matches nothing, no calibration
            images, values that are not finite (the tensor is named), or nothing but constant images.
        IllegalOrder: the network is quantized already.
    """
    _check(model, mode, overflow_rate, {"weights": weights, "activations": activations, "norm": norm})
    needed = activations is not None
    images = calibration_batches(model, calibration, calibration_images) if needed else []
    work = copy.deepcopy(model).eval()
    rounding = _Rounding(mode, overflow_rate)
    placed, kept = _placements(work, example_of(example, images), activations, ignore)
    norms = list(_norms(work)) if norm is not None else []
    step = FixedPointStep(mode, [activation_json(place) for place in placed], norms)
    _round_parameters(work, kept, weights, norms, norm, rounding)
    step.apply(work)  # activations are those of the network with rounded parameters
    _calibrate(work, placed, images, rounding, progress)
    step.apply(model)
    append(model, step)
    model.load_state_dict(work.state_dict())
    return FixedPointResult(mode, tuple(rounding.done), tuple(rounding.constants))


def _check(model: nn.Module, mode: str, overflow_rate: float, bits: Mapping[str, int | None]) -> None:
    """Raise an error if `model` cannot be put into fixed point so."""
    if not isinstance(model, nn.Module):
        raise InputTypeError(
            f"model of type {type(model).__name__}", "it is not a network", "pass an nn.Module"
        )
    check_order(model, FixedPointStep)
    check_mode(mode)
    for option, count in bits.items():
        _check_bits(option, count)
    if not 0 <= overflow_rate < 1:
        raise InputError(
            f"overflow_rate={overflow_rate}",
            "it is a share of the values",
            "pass 0, or a little above, say 0.001",
        )


def _round_parameters(
    model: nn.Module,
    layers: Iterable[str],
    weights: int | None,
    norms: Iterable[str],
    norm: int | None,
    rounding: _Rounding,
) -> None:
    """Round what `layers` and `norms` hold, in place; what has no bits stays."""
    if weights is not None:
        for path in layers:
            for name in ("weight", "bias"):
                rounding.parameter(model.get_submodule(path), path, name, weights)
    if norm is not None:
        for path in norms:
            _round_norm(model.get_submodule(path), path, norm, rounding)


class _Rounding:
    """Rounds tensors and remembers how."""

    def __init__(self, mode: Mode, overflow_rate: float) -> None:
        self.mode, self.overflow_rate = mode, overflow_rate
        self.done: list[FixedPointTensor] = []
        self.constants: list[str] = []

    def parameter(self, module: nn.Module, path: str, name: str, bits: int) -> None:
        """Round a parameter of `module` in place, if it has it."""
        values = module._parameters.get(name)
        if values is not None:
            full = f"{path}.{name}".strip(".")
            values.data.copy_(self.rounded(values.data, full, "parameter", bits))

    @torch.no_grad()
    def rounded(self, values: Tensor, name: str, kind: str, bits: int) -> Tensor:
        """`values` on the levels laid out for them."""
        if not values.isfinite().all():
            raise InputError(name, "it holds NaN or infinite values", "load sound weights or train again")
        quantizer = FixedPoint(bits, self.mode).to(values.device)
        ends = values.aminmax() if values.numel() else (torch.zeros(()), torch.zeros(()))
        self.set(quantizer, values.flatten(), (float(ends[0]), float(ends[1])), name, kind)
        # in float64: equal levels then are equal numbers, however a vector of them is computed
        rounded: Tensor = quantizer(values.double()).to(values.dtype)
        return torch.where(values == 0, torch.zeros_like(values), rounded)  # what was removed stays removed

    def set(
        self, quantizer: FixedPoint, values: Tensor, ends: tuple[float, float], name: str, kind: str
    ) -> None:
        """Choose the range of `quantizer` from `values` [N], whose extent is `ends`."""
        low, high = ends
        if self.overflow_rate:
            size = values.double().abs().sort(descending=True).values
            largest = float(size[min(len(size) - 1, int(self.overflow_rate * len(size)))])
            low, high = max(low, -largest), min(high, largest)
        quantizer.set_range(low, high, self._least(values, max(-low, high), quantizer.bits))
        first, last = (float(end) for end in quantizer.range)
        first = -last if quantizer.mode == "log" else first
        linear = quantizer.mode == "linear"
        step = float(quantizer.scale)
        slack = step / 2 if linear else 0.0
        beyond = (values > last + slack) | (values < first - slack)
        fraction = round(-math.log2(step)) if linear else None
        share = float(beyond.double().mean()) if values.numel() else 0.0
        low, high = (float(end) for end in quantizer.range)
        self.done.append(FixedPointTensor(name, kind, quantizer.bits, low, high, fraction, share))

    def _least(self, values: Tensor, largest: float, bits: int) -> float:
        """Mode 'log': the smallest magnitude that has a level, of least squared error on `values`."""
        if self.mode != "log":
            return largest
        trial = FixedPoint(bits, self.mode).to(values.device)
        best = (math.inf, largest)
        for octaves in range(1, 25):
            trial.set_range(-largest, largest, largest * 2.0**-octaves)
            best = min(
                best, (float((trial(values) - values).double().square().sum()), largest * 2.0**-octaves)
            )
        return best[1]


class _Sample:
    """Extent of the values seen, and some of them."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.finite = True
        self.parts: list[Tensor] = []

    def see(self, x: Tensor) -> None:
        """Take note of one tensor."""
        low, high = (float(end) for end in torch.aminmax(x))
        self.finite &= math.isfinite(low) and math.isfinite(high)
        self.low, self.high = min(self.low, low), max(self.high, high)
        flat = x.flatten()
        self.parts.append(flat[:: max(1, flat.numel() // _SAMPLE)].float().cpu().clone())


@torch.no_grad()
def _calibrate(
    model: nn.Module,
    placed: list[Placement],
    images: list[Inputs],
    rounding: _Rounding,
    progress: bool | None,
) -> None:
    """Set the ranges of all activations from what the network with rounded parameters computes."""
    if not placed:
        return
    children = model._modules[convert.ACTIVATIONS]
    assert isinstance(children, nn.ModuleDict)
    samples = {name: _Sample() for name in children}
    for name, quantizer in children.items():
        quantizer.enabled, quantizer.observer = False, samples[name]  # type: ignore[assignment]
    with bar("calibrate", len(images), progress) as advance:
        for batch in images:
            run(model, batch)
            advance()
    labels = {place.name: place.label for place in placed}
    check_inputs({labels[p.name]: (samples[p.name].low, samples[p.name].high) for p in inputs(placed)})
    for name, quantizer in children.items():
        assert isinstance(quantizer, FixedPoint)
        quantizer.enabled, quantizer.observer = True, None
        sample = samples[name]
        check_seen(labels[name], seen=bool(sample.parts), finite=sample.finite)
        if sample.low == sample.high:
            rounding.constants.append(labels[name])
        rounding.set(
            quantizer, torch.cat(sample.parts), (sample.low, sample.high), labels[name], "activation"
        )


def _placements(
    model: nn.Module, example: Any, activations: int | None, ignore: Sequence[str]
) -> tuple[list[Placement], list[str]]:
    """Where activations are rounded, and the layers whose parameters are."""
    recorded = trace.record(model, example)
    layers = placement.layers(flow.build(recorded, model))
    if not layers:
        raise InputError(
            f"model {type(model).__name__}",
            "it has no convolution or linear layer to round",
            "pass a network that has one",
        )
    ignored = patterns.matching("ignore", ignore, layers)
    kept = [layer for layer in layers if layer not in ignored]
    if activations is None:
        return [], kept
    plan = placement.plan(flow.build(recorded, model, ignore=ignored), dict.fromkeys(layers, activations))
    return [Placement(place.name, activations, place.places) for place in plan.activations], kept


def _norms(model: nn.Module) -> Iterator[str]:
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            yield path


def _make_affine(norm: nn.Module) -> None:
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_mean is not None
    if norm.weight is None:
        norm.affine = True
        norm.weight = nn.Parameter(torch.ones_like(norm.running_mean))
        norm.bias = nn.Parameter(torch.zeros_like(norm.running_mean))


@torch.no_grad()
def _round_norm(norm: nn.Module, path: str, bits: int, rounding: _Rounding) -> None:
    """Give `norm` a rounded factor and shift, mean 0 and variance 1."""
    _make_affine(norm)
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    shift = norm.bias.double() - norm.running_mean.double() * factor
    norm.weight.copy_(rounding.rounded(factor.to(norm.weight.dtype), f"{path} factor".strip(), "norm", bits))
    norm.bias.copy_(rounding.rounded(shift.to(norm.bias.dtype), f"{path} shift".strip(), "norm", bits))
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)


def _check_bits(option: str, bits: int | None) -> None:
    if bits is None:
        return
    if isinstance(bits, bool) or not isinstance(bits, int) or not (2 <= bits <= 16 or bits == 32):
        raise InputError(
            f"{option}={bits!r}",
            "the number of bits must be a whole number from 2 to 16, or 32",
            "pass 8, or None to leave it in floating point",
        )
