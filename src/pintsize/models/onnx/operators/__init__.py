"""What each ONNX operator becomes, by its name."""

from __future__ import annotations

from . import arithmetic, control, layers, norms, pools, quantized, recurrent, reductions, resize, shapes, sizes  # noqa: F401
from .table import OPERATORS, SIZES

__all__ = ["OPERATORS", "SIZES"]
