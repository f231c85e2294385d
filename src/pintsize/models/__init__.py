"""Named networks: `create`, `list`, and `load_factory` for the user's own."""

from __future__ import annotations

from ..storage.preprocessing import Preprocessing, preprocessing_of
from .factory import load_factory
from .onnx import from_onnx
from .outside import expected
from .registry import create, is_named
from .registry import names as list

__all__ = [
    "Preprocessing",
    "create",
    "expected",
    "from_onnx",
    "is_named",
    "list",
    "load_factory",
    "preprocessing_of",
]
