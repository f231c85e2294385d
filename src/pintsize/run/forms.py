"""The forms of the network that a run exports and measures, and their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..recipe.bits import BitsOption, widths


@dataclass(frozen=True)
class Form:
    """A form of the network that is deployed and measured: a row of the result."""

    label: str
    weights: str
    """Its safetensors file."""
    exported: str
    """Its ONNX file."""

    @property
    def compressed(self) -> str:
        """Its .pint file, where one is written."""
        return f"{self.exported.removesuffix('.onnx')}.pint"


def bits_label(weights: BitsOption, activations: BitsOption, *, both: bool) -> str:
    """`int8` where one number says all, unless `both` are to be told."""
    if isinstance(weights, Mapping) or isinstance(activations, Mapping):
        return "mixed bits"
    if weights == activations and weights is not None and not both:
        return f"int{weights}"
    return f"w{weights or 32}a{activations or 32}"


def chosen_forms(*, prunes: bool, bits: set[int | None]) -> list[Form]:
    """The forms of a network that a search has found, pruned or not, with these bits among its layers."""
    kind = "pruned" if prunes else "dense"
    counts = [width for width in bits if width is not None]
    forms = [("dense fp32", "dense"), *([("pruned fp32", "pruned")] if prunes else [])]
    if counts:
        forms.append((f"{kind} int{counts[0]}" if len(bits) == 1 else f"{kind} mixed bits", "quantized"))
    return named_forms(forms)


def named_forms(forms: Sequence[tuple[str, str]]) -> list[Form]:
    """Labels and stems with their files; the last one is deployed."""
    last = len(forms) - 1
    return [
        Form(label, f"{stem}.safetensors", "net.onnx" if number == last else f"{stem}.onnx")
        for number, (label, stem) in enumerate(forms)
    ]


def narrow(bits: BitsOption) -> bool:
    """Whether some weights have fewer bits than the kernels of ONNX Runtime have."""
    return any(width is not None and width < 8 for width in widths(bits))
