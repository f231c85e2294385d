"""The record's step for quantization: all that is needed to put the quantizers back into a plain model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from ...graph.trace import CallKey
from ...storage.record import Step, record, register
from .convert import quantize_activations, quantize_layer, quantizers
from .flow import Flow
from .placement import Pair, Place, Placement, Plan, layers, plan


@register
@dataclass(frozen=True)
class QuantizeStep(Step):
    """Layers and activations were quantized; scales and zero points are tensors of the model."""

    kind: ClassVar[str] = "quantize"
    may_follow: ClassVar[frozenset[str]] = frozenset(
        {"prune", "depth", "mask", "scatter", "bake", "fold", "cluster"}
    )
    reason: ClassVar[str] = "weights and activations are rounded already"

    weights: dict[str, int] = field(default_factory=dict)
    """Layer → bits of its weight."""
    activations: list[dict[str, Any]] = field(default_factory=list)
    """Name, bits and places of each quantizer of activations."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Layer → name of the activation it reads."""
    input_bits: dict[str, int] = field(default_factory=dict)
    """Layers that round what they read further, to so many bits."""
    learnable: bool = False
    """Whether scales are parameters."""
    skips: list[list[Any]] = field(default_factory=list)
    """Calls that do nothing, and which of their tensors they give back; files leave them out."""
    follow: float | None = None
    """In training ranges follow the values, those of activations with this weight of what was before."""

    def apply(self, model: nn.Module) -> None:
        """Put in the quantizers, uncalibrated."""
        for layer in dict.fromkeys((*self.weights, *self.input_bits)):
            quantize_layer(
                model.get_submodule(layer),
                weight_bits=self.weights.get(layer),
                input_bits=self.input_bits.get(layer),
                learnable=self.learnable,
            )
        skips = {CallKey(*call): index for *call, index in self.skips}
        quantize_activations(model, self.placements, learnable=self.learnable, skips=skips)
        if self.follow is not None:
            for quantizer in quantizers(model):
                quantizer.follow = 0.0 if quantizer.axis >= 0 else self.follow

    @property
    def placements(self) -> list[Placement]:
        """`activations` as objects."""
        return [
            Placement(entry["name"], entry["bits"], [Place(*place) for place in entry["places"]])
            for entry in self.activations
        ]


def replan(flow: Flow, step: QuantizeStep) -> Plan:
    """The plan by which `step` was made, as far as its quantizers go.

    Args:
        flow: the quantized network's, its quantizers switched off.
        step: from its record.
    """
    widths = {entry["name"]: entry["bits"] for entry in step.activations}
    bits: dict[str, int | None] = dict.fromkeys(layers(flow))
    bits |= {layer: step.input_bits.get(layer, widths[name]) for layer, name in step.inputs.items()}
    made = plan(flow, bits, outputs=True)
    made.outputs = {layer: name for layer, name in made.outputs.items() if name in widths}
    pairs: dict[str, list[Pair]] = {}
    for name, found in made.pairs.items():
        known = [pair for pair in found if {name, pair.one, pair.other} - {None} <= widths.keys()]
        if known:
            pairs[name] = known
    made.pairs = pairs
    return made


def activation_json(placement: Placement) -> dict[str, Any]:
    """An entry of `QuantizeStep.activations`."""
    return {
        "name": placement.name,
        "bits": placement.bits,
        "places": [[p.module, p.function, p.occurrence, p.index, p.echo] for p in placement.places],
    }


def step_of(model: nn.Module) -> QuantizeStep | None:
    """The quantization in the record of `model`, if there is one."""
    return next((step for step in record(model) if isinstance(step, QuantizeStep)), None)
