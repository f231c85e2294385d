"""Named networks: `create`, `list`, and `load_factory` for the user's own."""

from __future__ import annotations

from .factory import load_factory
from .onnx import from_onnx
from .registry import create
from .registry import names as list

__all__ = ["create", "from_onnx", "list", "load_factory"]
