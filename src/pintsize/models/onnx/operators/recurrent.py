"""Recurrent layers, with the gates in torch's order."""

from __future__ import annotations

import torch
from torch import Tensor

from ..building import Op, Value
from .table import operator

_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Torch's gates among those of ONNX: iofc → ifgo, zrh → rzn."""
_USUAL = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


@operator("LSTM", "GRU", "RNN")
def recurrent(op: Op) -> None:
    """`torch.nn.LSTM`, `GRU` or `RNN`.

    Raises:
        UnsupportedOp: activations, a peephole, sequences of several lengths or a GRU whose reset comes first, which
            torch's layers do not have.
    """
    hidden, way = op.attribute("hidden_size"), op.attribute("direction", "forward")
    weight, again, bias = op.constant(1), op.constant(2), op.constant(3)
    assert weight is not None
    assert again is not None
    directions = weight.shape[0]
    chosen = tuple(op.attribute("activations") or _USUAL[op.type] * directions)
    relu = op.type == "RNN" and chosen == ("Relu",) * directions
    if chosen != _USUAL[op.type] * directions and not relu:
        raise op.unsupported(f"activations {', '.join(chosen)} are not torch's")
    if op.type == "GRU" and not op.attribute("linear_before_reset", 0):
        raise op.unsupported("linear_before_reset=0 is not torch's GRU")
    if op.has(7) or op.attribute("input_forget", 0) or op.attribute("clip"):
        raise op.unsupported("peepholes, input_forget and clip are not torch's")
    if op.has(4) and not (op.is_constant(4) and len(set(op.value(4).data.tolist())) == 1):
        raise op.unsupported("sequences of several lengths are not known")
    if way == "reverse":
        raise op.unsupported("a layer that runs backwards alone is not torch's")
    layout = op.attribute("layout", 0)
    settings = {
        "input_size": weight.shape[2],
        "hidden_size": hidden,
        "bias": bias is not None,
        "bidirectional": directions == 2,
        "batch_first": bool(layout),
        **({"nonlinearity": "relu"} if relu else {}),
    }
    weights: dict[str, Tensor | None] = {}
    for direction in range(directions):
        end = "_l0_reverse" if direction else "_l0"
        weights[f"weight_ih{end}"] = _gates(weight[direction], op.type, hidden)
        weights[f"weight_hh{end}"] = _gates(again[direction], op.type, hidden)
        if bias is not None:
            half = bias.shape[1] // 2
            weights[f"bias_ih{end}"] = _gates(bias[direction, :half], op.type, hidden)
            weights[f"bias_hh{end}"] = _gates(bias[direction, half:], op.type, hidden)
    args = (op.value(0),) if not op.has(5) else (op.value(0), _state(op, layout))
    made = op.module(op.type, settings, weights, *args, between=True)
    op.call("recurrent", made, directions, hidden, layout)


def _gates(weight: Tensor, kind: str, hidden: int) -> Tensor:
    parts = weight.split(hidden)
    return torch.cat([parts[k] for k in _ORDER[kind]])


def _state(op: Op, layout: int) -> Value:
    parts = [op.value(5), *([op.value(6)] if op.type == "LSTM" else [])]
    if layout:
        parts = [op.between("transpose", part, (1, 0, 2)) for part in parts]
    return op.between("state", *parts)
