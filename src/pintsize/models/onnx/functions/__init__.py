"""What the steps of an imported network call that is no module: one function for each ONNX operator that needs one.

Sizes that are computed from shapes are NumPy arrays of Python's own integers (`sizes.py`), so that torch's exporter keeps
them open; all else is tensors and plain numbers.
"""

from __future__ import annotations

from . import elementwise, layers, moving, pooling, reducing, resizing, sizes  # noqa: F401 (they fill the table)
from .table import CREATES, FUNCTIONS

__all__ = ["CREATES", "FUNCTIONS"]
