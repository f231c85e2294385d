"""From the network with attention to the smaller network: what was removed is cut out.

Steps, each of which the record keeps: channels that nobody computes any more are cut (`prune`);
convolutions that lost channels which the stream of residuals still needs compute the kept ones alone
(`scatter`), where that is measured to be faster; norms are folded and quantizers put in, where it was
trained so. The values are those that were trained, attention multiplied into the weights.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...graph import trace
from ...graph.check import Mismatch, distance, run
from ...graph.groups import Removed
from ...graph.surgery import _without
from ...graph.trial import attempt
from ...measure import side_by_side
from ...quant import FoldStep
from ...quant.grid.ties import ratios_of, settle_weights
from ...quant.ptq.ranges import round_biases
from ...storage import record as _record
from ..channels import costs
from ..channels.plan import PruningPlan, add_bias
from ..channels.scatter import ScatterStep, of_zeros
from .layers import Attended, removed_units
from .ranges import Quantization, ranges_of
from .sites import Target

_log = logging.getLogger(__name__)
_TOLERANCE, _QUANTIZED_TOLERANCE = 1e-5, 1e-2
"""Largest difference between masked and realised network over the largest output. Quantized networks agree as well where
no result lies near a rounding threshold (`quant.ties`), which holds for all but what is computed in float and the input."""


@dataclass(frozen=True)
class Realisation:
    """How the network with attention was made smaller."""

    plan: PruningPlan
    """What was cut."""
    scattered: dict[str, int] = field(default_factory=dict)
    """Convolution → channels it still computes, where that was measured to be faster."""
    masked: dict[str, int] = field(default_factory=dict)
    """Convolution → channels it computes as zeros, because leaving them out was no faster."""
    error: float = 0.0
    """Largest difference between the outputs of the masked and the realised network, over the largest."""
    quantized: bool = False
    """Whether they are quantized: one result that is rounded otherwise is a whole level then."""
    uncut: str = ""
    """Why nothing was cut, if a cut failed: the network holds what was trained, with zeros where channels were removed."""

    @property
    def rounding(self) -> bool:
        """Whether `error` is no more than rounding accounts for."""
        return self.error <= (_QUANTIZED_TOLERANCE if self.quantized else _TOLERANCE)

    @property
    def left(self) -> dict[str, float]:
        """Fractions of the dense network's parameters and MACs that the realised one has."""
        before, after = self.plan.before, self.plan.after
        return {name: after[name] / before[name] for name in ("params", "macs")}


def realise(
    model: nn.Module, attended: Attended, example: Any, *, quantization: Quantization | None = None
) -> Realisation:
    """Make `model`, the dense network, what `attended` has become, in place.

    Args:
        model: the network that attention was given to a copy of.
        attended: trained; unchanged.
        example: an input.
        quantization: how it was quantized while it was trained.

    Nothing that was trained is lost: where a cut fails the network stays as large as it was, and the result says so;
    it tells the difference to the masked network, whatever it is.
    """
    removed = removed_units(attended.graph, attended.cut())
    uncut = ""
    for cut, scatter in ((removed, True), (removed, False), ({}, False)):
        try:
            made = _made(model, attended, example, quantization, cut, scatter=scatter)
            break
        except Exception as failed:  # whatever it is: hours of training are worth more than a cut
            if not cut:
                raise
            _log.warning("realise: a smaller network cannot be made", exc_info=True)
            uncut = str(failed) or type(failed).__name__
    uncut = "" if cut else uncut
    try:
        error = distance(run(attended.model, example), run(made.work, example))
    except Mismatch:
        error = float("inf")
    for step in made.steps:
        step.apply(model)
        _record.append(model, step)
    model.load_state_dict(made.work.state_dict())
    counts = {entry["layer"]: len(entry["kept"]) for entry in made.scattered.layers}
    return Realisation(made.plan, counts, made.masked, error, quantization is not None, uncut)


@dataclass(frozen=True)
class _Made:
    work: nn.Module
    plan: PruningPlan
    steps: list[_record.Step]
    scattered: ScatterStep
    masked: dict[str, int]


def _made(
    model: nn.Module,
    attended: Attended,
    example: Any,
    quantization: Quantization | None,
    removed: Removed,
    *,
    scatter: bool,
) -> _Made:
    """A copy of `model` with the trained values, `removed` cut out of it."""
    work = copy.deepcopy(model)
    values = attended.values()
    biases = {path: values.pop(f"{path}.bias") for path in attended.biases}
    biases = {path: bias for path, bias in biases.items() if bias.any()}
    if quantization is None:
        work.load_state_dict(values)
    plan = _with_biases(work, _cut(work, example, attended, removed), biases)
    scattered, masked = ScatterStep(), dict[str, int]()
    if scatter:
        scattered, masked = _scattered(work, example, attended, removed, constants=quantization is None)
    steps: list[_record.Step] = [plan.step()] if removed else []
    if scattered.layers:
        scattered.apply(work)
        steps.append(scattered)
    plan = _with_costs(plan, work, example)
    if quantization is not None:
        steps += _quantize(work, attended, quantization, values, removed, scattered)
    return _Made(work, plan, steps, scattered, masked)


def _quantize(
    work: nn.Module,
    attended: Attended,
    quantization: Quantization,
    values: Mapping[str, Tensor],
    removed: Removed,
    scattered: ScatterStep,
) -> list[_record.Step]:
    """Fold and quantize `work`, which is cut, and give it the trained values; the steps of its record."""
    fold, step = quantization.fold, quantization.step
    steps: list[_record.Step] = [step]
    if fold is not None:
        places = {entry["norm"] for entry in scattered.layers}
        fold = FoldStep({k: f"{norm}.0" if norm in places else norm for k, norm in fold.norms.items()})
        fold.apply(work)
        steps = [fold, step]
    step.apply(work)
    ranges = attended.scales(ranges_of(attended.model))
    _load(work, {**values, **ranges}, removed, scattered)
    _load_activations(work, ranges)
    # activations have the scales that the masked network was given at the end of its last epoch, and keep them: moved
    # again, they would round weights behind them anew. Weights and biases make up for products in float32
    settle_weights(work, ratios_of(work, step, quantization.plan))
    round_biases(work, step)
    return steps


def _with_biases(work: nn.Module, plan: PruningPlan, biases: Mapping[str, Tensor]) -> PruningPlan:
    """Give layers of `work`, which is cut, the biases that hold constants of channels that they no longer read."""
    with torch.no_grad():
        for path, bias in biases.items():
            layer = work.get_submodule(path)
            rows = plan.removed.get(f"{path}.weight", {}).get(1 if getattr(layer, "transposed", False) else 0)
            add_bias(layer).copy_(_without(bias, {0: rows} if rows else {}))
    return replace(plan, biases=tuple(biases))


def _with_costs(plan: PruningPlan, work: nn.Module, example: Any) -> PruningPlan:
    """`plan` with the costs of `work` itself: convolutions that compute fewer channels save more than what was cut."""
    recorded = trace.record(work, example)
    shapes = {name: tuple(value.shape) for name, value in recorded.parameters.items()}
    left = {"params": costs.parameters(recorded)(shapes), "macs": costs.macs(recorded)(shapes)}
    return replace(plan, after={**plan.after, **left})


def _cut(work: nn.Module, example: Any, attended: Attended, removed: Removed) -> PruningPlan:
    """Cut `removed` out of `work`, proven on the example."""
    full, left = attended.costs([[]] * len(attended.physical)), attended.costs(attended.physical)
    if not removed:
        return PruningPlan({}, before=full, after=left)
    undo, error = attempt(work, example, attended.graph, removed)
    return PruningPlan(removed, undo.attributes, before=full, after=left, error=error)


def _scattered(
    work: nn.Module, example: Any, attended: Attended, removed: Removed, *, constants: bool
) -> tuple[ScatterStep, dict[str, int]]:
    """The convolutions of `work`, which is cut already, that compute channels of zeros, and what to do.

    `constants` says whether norms make constants of such channels, as those that were not folded do.
    """
    candidates = _candidates(attended, removed)
    if not candidates:
        return ScatterStep(), {}
    inputs = _inputs_of(work, example, [target.layer for target, _, _ in candidates])
    entries, masked = [], {}
    for target, kept, channels in candidates:
        entry: dict[str, Any] = {
            "layer": target.layer,
            "norm": target.norm,
            "kept": kept,
            "channels": channels,
        }
        if target.norm is not None and constants:
            silent = sorted(set(range(channels)) - set(kept))
            entry["constants"] = bool(of_zeros(work.get_submodule(target.norm))[silent].any())
        if target.norm is not None and _faster(work, entry, inputs[target.layer]):
            entries.append(entry)
        else:
            masked[target.layer] = channels - len(kept)
    return ScatterStep(entries), masked


def _candidates(attended: Attended, removed: Removed) -> list[tuple[Target, list[int], int]]:
    """Convolutions with silent channels that were not cut: with the others, in terms of the cut network."""
    found = []
    for target in {t.layer: t for site in attended.sites for t in site.targets}.values():
        silent = set(attended.removed.get(f"{target.layer}.weight", {}).get(target.axis, ()))
        gone = set(removed.get(f"{target.layer}.weight", {}).get(target.axis, ()))
        left = [channel for channel in range(target.channels) if channel not in gone]
        kept = [place for place, channel in enumerate(left) if channel not in silent]
        kept = kept or [0]  # a convolution computes something, be it zeros
        if len(kept) < len(left):
            found.append((target, kept, len(left)))
    return found


def _inputs_of(model: nn.Module, example: Any, layers: Sequence[str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(layer).register_forward_pre_hook(
            lambda _module, args, layer=layer: found.__setitem__(layer, args[0].detach())
        )
        for layer in layers
    ]
    try:
        run(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _faster(model: nn.Module, entry: Mapping[str, Any], x: Tensor) -> bool:
    """Whether a convolution with its norm is faster on `x` when it computes its kept channels alone."""
    small = nn.Module()
    small.layer, small.norm = (copy.deepcopy(model.get_submodule(entry[key])) for key in ("layer", "norm"))
    whole = nn.Sequential(model.get_submodule(entry["layer"]), model.get_submodule(entry["norm"]))
    ScatterStep([{**entry, "layer": "layer", "norm": "norm"}]).apply(small)
    threads = torch.get_num_threads()
    part = nn.Sequential(small.layer, small.norm)
    times = side_by_side({"whole": whole, "part": part}, x, warmup=3, repeats=15, threads=threads)
    return times["part"].median_ms < times["whole"].median_ms


def _load(work: nn.Module, values: Mapping[str, Tensor], removed: Removed, step: ScatterStep) -> None:
    """Give `work`, cut and folded, the values of the uncut network."""
    own = work.state_dict()
    scattered = {entry["layer"]: entry["kept"] for entry in step.layers}
    with torch.no_grad():
        for name, value in values.items():
            if name not in own or name.startswith("activation_quantizers."):
                continue
            layer = _layer_of(name)
            axis = 1 if layer and getattr(work.get_submodule(layer), "transposed", False) else 0
            dims: dict[int, list[int]] = dict(removed.get(name, {}))
            if name != f"{layer}.weight":
                rows = removed.get(f"{layer}.weight", {}).get(axis)
                axis = 0  # a folded bias, the scales: vectors over the same channels
                dims |= {0: rows} if rows else {}
            kept = _without(value, dims)
            if layer in scattered:
                kept = kept.index_select(axis, torch.tensor(scattered[layer], device=kept.device))
            own[name].copy_(kept)


def _layer_of(name: str) -> str:
    """The layer whose output channels a tensor counts, '' if it is another kind of tensor."""
    for ending in (".weight_quantizer.scale", ".weight_quantizer.zero_point", ".weight", ".bias"):
        if name.endswith(ending):
            return name.removesuffix(ending)
    return ""


def _load_activations(work: nn.Module, ranges: Mapping[str, Tensor]) -> None:
    own = work.state_dict()
    with torch.no_grad():
        for name, value in ranges.items():
            if name.startswith("activation_quantizers."):
                own[name].copy_(value)
