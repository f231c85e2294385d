"""Whether a CPU computes the integers of a file exactly: on x86 without VNNI, 8-bit products saturate.

There a kernel multiplies pairs of unsigned activations and signed weights and adds the two in 16 bits
(`vpmaddubsw`): 2 · 255 · 127 does not fit, 2 · 255 · 64 does. ONNX Runtime has a slower kernel that is exact
(`session.x64quantprecision`), OpenVINO has none.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import torch
from torch import nn

from ..quant.network import convert

_FULL = 8
_log = logging.getLogger(__name__)


def target(model: nn.Module) -> dict[str, Any] | None:
    """For which machines the integers of a network are exact, as it is told in its file; None for a float network."""
    activations = any(True for _ in convert.activation_quantizers(model))
    widths = [int(layer.weight_quantizer.bits) for _, layer in convert.weight_layers(model)]  # type: ignore[union-attr, arg-type]
    if not (activations and widths):
        return None
    if max(widths) < _FULL:
        return {"name": "onnxruntime-avx2", "needs": []}
    return {"name": "onnxruntime-x86", "needs": ["vnni"], "without": "session.x64quantprecision=1"}


def lacking(told: str | None) -> bool:
    """Whether a file whose entry `pintsize.target` is `told` needs VNNI, and this machine is an x86 without it."""
    try:
        needs = json.loads(told or "null")
    except ValueError:
        return False
    return isinstance(needs, dict) and "vnni" in (needs.get("needs") or ()) and not has_vnni()


def tell(path: object, note: str) -> str:
    """Log what this machine lacks for a file; `note` again."""
    _log.warning("%s: %s", path, note)
    return note


def has_vnni() -> bool:
    """Whether the CPU multiplies uint8 by int8 into 32 bits in one step, or is no x86 and does it otherwise."""
    capabilities = torch.cpu.get_capabilities()
    return capabilities.get("architecture") != "x86_64" or any(
        capabilities.get(name) for name in ("avx_vnni", "avx512_vnni")
    )
