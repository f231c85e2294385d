"""An `.onnx` file as a network: read, repaired, rebuilt from modules of torch, proved equal to the file."""

from __future__ import annotations

from .importing import from_onnx

__all__ = ["from_onnx"]
