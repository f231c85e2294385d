"""The forms of the network that a run exports and measures, as its recipe has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..recipe.bits import BitsOption, widths
from ..recipe.recipe import Recipe


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


def forms_of(recipe: Recipe) -> list[Form]:
    """In order; the last one is `net.onnx`."""
    forms = [("dense fp32", "dense"), *_in_between(recipe)]
    kind = "sparse" if recipe.sparsify is not None else "pruned" if prunes(recipe) else "dense"
    quantized = recipe.attention is not None and recipe.attention.weights is not None
    if prunes(recipe) and not quantized:
        forms.append((f"{kind} fp32", "pruned"))
    bits = recipe.attention if quantized else recipe.quantize
    if bits is not None:
        label = _bits_label(bits.weights, bits.activations, both=quantized)
        forms.append((f"{kind} {label}", "quantized"))
    return _named(forms)


def _bits_label(weights: BitsOption, activations: BitsOption, *, both: bool) -> str:
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
    return _named(forms)


def _named(forms: Sequence[tuple[str, str]]) -> list[Form]:
    """Labels and stems with their files; the last one is deployed."""
    last = len(forms) - 1
    return [
        Form(label, f"{stem}.safetensors", "net.onnx" if number == last else f"{stem}.onnx")
        for number, (label, stem) in enumerate(forms)
    ]


def prunes(recipe: Recipe) -> bool:
    """Whether anything is removed."""
    ways = (recipe.prune, recipe.attention, recipe.sparsify, recipe.rules, recipe.rounds)
    return any(way is not None for way in ways)


def packed(recipe: Recipe) -> bool:
    """Whether `.pint` files are written, too: zeros save nothing in ONNX, and it has no kernels below 8 bits."""
    bits = recipe.attention if recipe.attention and recipe.attention.weights else recipe.quantize
    narrow = bits is not None and any(width is not None and width < 8 for width in widths(bits.weights))
    return narrow or recipe.sparsify is not None


def before_quantize(recipe: Recipe) -> str:
    """File of the network that is quantized."""
    return "pruned.safetensors" if prunes(recipe) else "dense.safetensors"


def _in_between(recipe: Recipe) -> list[tuple[str, str]]:
    """What rounds and rule files measure besides the last network."""
    staged = {"rounds": recipe.rounds, "rules": recipe.rules}
    forms = [
        ("dense fp32, trained on", f"{folder}/dense-trained-on")
        for folder, options in staged.items()
        if options is not None and options.baseline
    ]
    if recipe.rounds is not None:
        forms += [(f"round {k} fp32", f"rounds/round-{k}") for k in range(1, recipe.rounds.rounds)]
    return forms
