"""Which layers of a quantized network a runtime computes in floating point all the same, and why.

A runtime takes a layer, with the ReLU behind it, into one kernel on integers where input, weight and result are
quantized, and where the result's range ends where the ReLU does. The patterns are those of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn

from ..grid.quantizer import FakeQuantize
from . import convert
from .flow import Flow
from .placement import Clip, End, Plan

_IGNORED = "it is named in ignore="
DECODES = "it decodes the network's results: it weighs the places of a softmax"
_WEIGHT = "its weight is not quantized"
_INPUT = "what it reads is not quantized"
_TRANSPOSED = "ONNX Runtime has no transposed convolution on integers (OpenVINO has)"
_RESULT = (
    "its result stays float: nothing in integers reads it (outputs=True quantizes the network's results)"
)
_ACTIVATION = "its activation ends inside of the range of its result, which others share"
_COMPUTED = "its weight is computed from the network's input"
_FOREIGN = "its weight is no parameter of an nn.Conv or nn.Linear module that runs it"


def left_out(flow: Flow, ignored: Collection[str]) -> dict[str, str]:
    """Layers of `flow` that are not to be quantized, and modules that run convolutions and products that cannot be."""
    found = dict.fromkeys(sorted(ignored), _IGNORED)
    for node in flow.nodes:
        if node.weight is None or node.layer is not None:
            continue
        read = node.args[1 if node.name == "addmm" else 0]  # the bias is the first one there
        if not read.computed:
            continue
        if not node.weight.computed:
            found.setdefault(node.op.module, _FOREIGN)
        elif node.name == "convolution":
            found.setdefault(node.op.module, _COMPUTED)
    return found


def in_float(model: nn.Module, weights: Collection[str], plan: Plan) -> dict[str, str]:
    """Path of each such layer → why.

    Args:
        model: quantized and calibrated.
        weights: the layers whose weights are quantized.
        plan: where its quantizers are.
    """
    quantizers = convert.activation_quantizers(model)
    found = dict(plan.left_out)
    for layer in plan.layers:
        module = model.get_submodule(layer)
        if layer not in weights:
            found[layer] = _WEIGHT
        elif layer not in plan.inputs:
            found[layer] = _INPUT
        elif isinstance(module, nn.modules.conv._ConvTransposeNd):
            found[layer] = _TRANSPOSED
        elif not isinstance(module, nn.Linear):
            reasons = [reason for end in plan.ends.get(layer, ()) if (reason := _outside(end, quantizers))]
            if reasons:
                found[layer] = reasons[0]
    return found


def _outside(end: End, quantizers: Mapping[str, FakeQuantize]) -> str | None:
    """Why what a convolution gives is no result of a kernel on integers."""
    if end.quantizer is None:
        return _RESULT
    return None if end.clip is None or _ends_with(quantizers[end.quantizer], end.clip) else _ACTIVATION


def _ends_with(quantizer: FakeQuantize, clip: Clip) -> bool:
    """Whether the range of `quantizer` clips at least as hard."""
    scale = float(quantizer.scale.detach())
    low, high = (None if end is None else round(end / scale) for end in clip)
    zero = int(quantizer.zero_point)
    return (low is None or low + zero <= quantizer.qmin) and (high is None or high + zero >= quantizer.qmax)
