"""Biases and weight scales of quantized layers as the integers that they are, given other scales of the file."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...quant.grid.quotients import join, split
from ...quant.network.convert import ACTIVATIONS, WEIGHT, weight_layers
from ...quant.network.record import step_of
from ...quant.ptq.ranges import input_quantizer

Units = dict[str, list[tuple[str, str, str]]]
"""Name of a tensor → the kinds that it may be, each with the names of the two scales that it needs."""


def units(model: nn.Module) -> Units:
    """What biases are multiples of, and what weight scales may be quotients of."""
    step = step_of(model)
    found: Units = {}
    if step is None:
        return found
    outputs = [f"{ACTIVATIONS}.{entry['name']}.scale" for entry in step.activations]
    for path, layer in weight_layers(model):
        source, prefix = input_quantizer(path, layer, step), f"{path}." if path else ""
        if source is not None:
            scale = f"{prefix}{WEIGHT}.scale"
            found[f"{prefix}bias"] = [("multiples", scale, f"{source}.scale")]
            found[scale] = [("quotients", output, f"{source}.scale") for output in outputs]
    return found


def multiplied(folded: Tensor, scale: Tensor, step: Tensor) -> Tensor:
    """Multiples of `scale · step` from their numbers, with signs folded in; as `quant.ranges.round_biases` computes them."""
    if scale.dim() != 1 or step.dim() or not len(scale) or len(folded) % len(scale):
        raise ValueError("the scales of a bias do not fit it")
    k = (folded >> 1) ^ -(folded & 1)
    return (k.view(-1, len(scale)).double() * (scale.double() * step.double())).float().view(-1)


def as_multiples(tensor: Tensor, scale: Tensor, step: Tensor) -> Tensor | None:
    """A bias as whole numbers of what an int32 accumulator counts in, if it is such."""
    if {scale.dtype, step.dtype} != {torch.float32} or scale.dim() != 1:
        return None
    k = torch.round(tensor.view(-1, len(scale)).double() / (scale.double() * step.double())).view(-1)
    if not k.abs().max() < 2**30:
        return None
    k = k.to(torch.int32)
    folded = (k << 1) ^ (k >> 31)
    same = torch.equal(multiplied(folded, scale, step).view(torch.int32), tensor.view(-1).view(torch.int32))
    return folded if same else None


def divided(coded: Tensor, output: Tensor, source: Tensor) -> Tensor:
    """Scales from their exponents (the highest byte) and halves of their odd integers; see `quant.quotients`."""
    if output.dim() or source.dim() or float(source) == 0:
        raise ValueError("the scales of a quotient do not fit it")
    return join(coded >> 24, 2 * (coded & 0xFFFFFF) + 1, float(output) / float(source))


def as_quotients(tensor: Tensor, output: Tensor, source: Tensor) -> Tensor | None:
    """Weight scales as exponents and odd integers, if they are such for this output and this input."""
    if {output.dtype, source.dtype} != {torch.float32} or tensor.dim() != 1 or output.dim() or source.dim():
        return None
    if not ((tensor > 0).all() and output > 0 and source > 0):
        return None
    exponent, q = split(tensor, float(output) / float(source))
    if int(exponent.max()) > 63:
        return None
    coded = ((exponent << 24) + (q >> 1)).to(torch.int32)
    return coded if torch.equal(divided(coded, output, source), tensor) else None


FORMS = {"multiples": (as_multiples, multiplied), "quotients": (as_quotients, divided)}
"""Kind → how integers are found, and how numbers are made of them."""
