"""What the pictures of the command line are drawn from: networks, scans, benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .loading import load_model

if TYPE_CHECKING:
    from torch import nn


def network_of(name: str, plain: str | None) -> nn.Module:
    """The network in a file, or the one that has the name."""
    from ..storage.network_file import load

    if Path(name).suffix not in {".safetensors", ".pint", ".pt", ".pth", ".th"}:
        return load_model(name).eval()
    return load(name, model=None if plain is None else load_model(plain))


def labels(networks: list[str]) -> list[str]:
    """What tells files apart: their stems, else their paths."""
    stems = [Path(name).stem if Path(name).suffix else name for name in networks]
    return stems if len(set(stems)) == len(stems) else [str(Path(name).with_suffix("")) for name in networks]


def layer_of(network: nn.Module, name: str | None) -> tuple[str, Any]:
    """A layer's path and weight; of all, the one with the most weights."""
    from ..errors import unknown
    from ..viz.weights import layer_weights

    weights = layer_weights(network)
    name = name or max(weights, key=lambda layer: weights[layer].numel())
    if name not in weights:
        raise unknown("layer", name, weights)
    return name, weights[name]


def curves(scan: Path) -> dict[str, dict[float, float]]:
    """Layer → {ratio: accuracy}, with the whole network at 0."""
    from ..pruning.scans.scan import Sensitivity

    found = Sensitivity.load(scan)
    return {
        curve.name: {0.0: found.accuracy, **dict(zip(found.ratios, curve.accuracy, strict=True))}
        for curve in found.curves
    }


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


def cost_of(name: str) -> str:
    """`name`, if it is a cost.

    Raises:
        InputError: it is none.
    """
    from ..errors import unknown
    from ..viz.frontier import COSTS

    if name not in COSTS:
        raise unknown("cost", name, COSTS)
    return name


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
    import json

    from ..errors import InputError

    if not file.is_file():
        raise InputError(str(file), "there is no such file", "check the path")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _not(what, file, error) from error


def _not(what: str, file: Path, error: Exception) -> Exception:
    from ..errors import CorruptFile

    return CorruptFile(
        str(file), f"it is not {what} ({type(error).__name__}: {error})", "write it with --json, into a file"
    )
