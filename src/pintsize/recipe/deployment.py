"""The deployed file: the `export` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .section import Section, section


@section("export", title="Export", about="The deployed file.", place=80, default=True, required=True)
class ExportSection(Section):
    """The deployed file, and how it is timed."""

    opset: int | None = Field(default=None, ge=19)
    """ONNX operator set; by default the one pintsize is tested with."""
    backend: Literal["onnxruntime", "openvino"] = "onnxruntime"
    """Runtime that the file is verified and measured in, and whose latencies a budget is about."""
    threads: int = Field(default=2, ge=1, le=1024)
    """Threads of the runtime in every measurement."""
    licence: str | None = None
    """Of the weights, kept in the deployed files."""
