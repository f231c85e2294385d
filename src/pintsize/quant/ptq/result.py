"""What `quantize` did, as an object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from ...tables import Table, Tabular
from ..clustering.clustered import clustered_layers, codebooks
from ..network import convert
from ..network.fold import FoldStep
from ..network.record import QuantizeStep


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer after quantization."""

    name: str
    weight_bits: int | None
    activation_bits: int | None
    """Of what it reads."""


@dataclass(frozen=True)
class QuantizedActivation:
    """A quantized activation."""

    name: str
    where: str
    """The module and function that gives it."""
    bits: int
    scale: float
    zero_point: int
    low: float
    """Smallest value it can stand for."""
    high: float
    """Largest value it can stand for."""


@dataclass(frozen=True)
class FloatLayer:
    """A layer that is computed in floating point."""

    name: str
    reason: str


@dataclass(frozen=True)
class QuantizationResult(Tabular):
    """What `quantize` did."""

    layers: tuple[QuantizedLayer, ...]
    activations: tuple[QuantizedActivation, ...]
    folded: tuple[str, ...]
    """Paths of the batch norms that were folded."""
    equalized: tuple[tuple[str, str], ...] = ()
    """Pairs of layers whose channels were scaled against each other."""
    rounded: tuple[str, ...] = ()
    """Layers whose rounding was learned."""
    constants: tuple[str, ...] = ()
    """Where an activation is constant on all calibration images (a dead ReLU, say): its value is a level exactly."""
    in_float: tuple[FloatLayer, ...] = ()
    """Layers that a file computes in floating point in ONNX Runtime, with the reason."""
    codebooks: Mapping[str, int] = field(default_factory=dict)
    """Layers whose weights go on sharing values → 1, or one for each output channel, where a norm was folded."""

    def __rich__(self) -> Table:
        """Bits of each layer's weights and of what it reads."""
        reasons = {layer.name: layer.reason for layer in self.in_float}
        bits = {layer.name: (layer.weight_bits, layer.activation_bits) for layer in self.layers}
        heads = ("layer", "weights", "reads", *(["in floating point because"] if reasons else []))
        rows = [
            (name, *(str(count or "fp32") for count in bits.get(name, (None, None))), reasons.get(name, ""))
            for name in dict.fromkeys((*bits, *reasons))
        ]
        rows = [row[: len(heads)] for row in rows]
        done = (
            ("in floating point", self.in_float),
            ("folded", self.folded),
            ("equalized", self.equalized),
            ("rounding learned", self.rounded),
            ("constant on all images", self.constants),
        )
        told = [f"{len(what)} {name}" for name, what in done if what]
        if self.codebooks:
            parted = sum(count > 1 for count in self.codebooks.values())
            told.append(
                f"{len(self.codebooks)} with shared values ({parted} with a codebook per output channel)"
            )
        return Table(heads, rows, caption=", ".join(told))


def describe(
    model: nn.Module,
    step: QuantizeStep,
    folded: FoldStep | None,
    in_float: Mapping[str, str],
    *,
    constants: list[str],
    equalized: list[tuple[str, str]],
    rounded: list[str],
) -> QuantizationResult:
    """The result object for a network to which `step` and `folded` were done."""
    bits = {entry["name"]: entry["bits"] for entry in step.activations}
    layers = [
        QuantizedLayer(
            name, step.weights.get(name), step.input_bits.get(name, bits.get(step.inputs.get(name, "")))
        )
        for name in dict.fromkeys((*step.weights, *step.inputs))
    ]
    labels = {placement.name: placement.label for placement in step.placements}
    activations = []
    for name, quantizer in convert.activation_quantizers(model).items():
        low, high = (float(end) for end in quantizer.limits())
        where = labels.get(name, f"input of {name}")
        activations.append(
            QuantizedActivation(
                name,
                where,
                quantizer.bits,
                float(quantizer.scale.detach()),
                int(quantizer.zero_point),
                low,
                high,
            )
        )
    norms = tuple(folded.folded) if folded else ()
    clustered = {path: layer for path, layer in clustered_layers(model).items() if path in step.weights}
    return QuantizationResult(
        tuple(layers),
        tuple(activations),
        norms,
        equalized=tuple(equalized),
        rounded=tuple(rounded),
        constants=tuple(labels.get(name, f"input of {name}") for name in constants),
        in_float=tuple(FloatLayer(name, reason) for name, reason in in_float.items()),
        codebooks={path: codebooks(layer) for path, layer in clustered.items()},
    )
