"""Plain-text tables for a terminal, a log or a pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .measure.units import bytes_text, count_text, milliseconds_text

_STAGE_HEADINGS = ("", "accuracy", "parameters", "MACs", "file", "latency")


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns under their headings, the first one to the left, the others to the right."""
    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    texts = [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([texts[0], "─" * max(map(len, texts)), *texts[1:]])


def stage_table(stages: Sequence[Mapping[str, Any]]) -> str:
    """The stages of a run: accuracy on the test images, size, and median latency of one image."""
    rows = [
        (
            str(stage["name"]),
            f"{stage['accuracy']:.2f} %",
            count_text(stage["params"]),
            count_text(stage["macs"]),
            bytes_text(stage["bytes"]),
            milliseconds_text(stage["latency"]["median_ms"]),
        )
        for stage in stages
    ]
    return text_table(_STAGE_HEADINGS, rows)
