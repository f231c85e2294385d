"""What each ONNX operator becomes, by its name."""

from __future__ import annotations

from . import (  # noqa: F401 (they fill the tables)  # noqa: F401
    arithmetic,
    control,
    layers,
    norms,
    pools,
    quantized,
    recurrent,
    reductions,
    resize,
    shapes,
    sizes,
)
from .table import OPERATORS, SIZES

__all__ = ["OPERATORS", "SIZES"]
