"""What commands printed with `--json`, read again: scans with retraining, benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import CorruptFile, InputError


def retrained_curves(file: Path) -> dict[str, dict[float, float]]:
    """Layer → {ratio: accuracy} after retraining, with the whole network at 0."""
    document = _json(file, "a scan with --epochs")
    try:
        start, ratios = {0.0: float(document["scan"]["accuracy"])}, document["scan"]["ratios"]
        return {
            layer: {**start, **dict(zip(ratios, values, strict=True))}
            for layer, values in document["retrained"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _not("a scan with --epochs", file, error) from error


def benchmarks(files: list[Path]) -> dict[str, dict[str, Any]]:
    """What was measured, by names that tell the contenders apart: file, runtime, folder as far as needed."""
    rows: list[dict[str, Any]] = []
    for file in files:
        document = _json(file, "a benchmark")
        try:
            rows += [
                {**row, "file": Path(row["file"]), "backend": str(row["backend"])}
                for row in document["files"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise _not("a benchmark", file, error) from error
    named = [row["file"].name for row in rows]
    if len(set(named)) < len(rows):
        named = ["/".join(row["file"].parts[-2:]) for row in rows]
    if len({row["backend"] for row in rows}) > 1 or len(set(named)) < len(rows):
        named = [f"{name}, {row['backend']}" for name, row in zip(named, rows, strict=True)]
    if len(set(named)) < len(rows):
        named = [f"{number} {name}" for number, name in enumerate(named, 1)]
    return dict(zip(named, rows, strict=True))


def _json(file: Path, what: str) -> Any:
    if not file.is_file():
        raise InputError(str(file), "there is no such file", "check the path")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _not(what, file, error) from error


def _not(what: str, file: Path, error: Exception) -> CorruptFile:
    return CorruptFile(
        str(file), f"it is not {what} ({type(error).__name__}: {error})", "write it with --json, into a file"
    )
