"""The last stages of a run: the deployed file is verified, and every file measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...deploy import open_runtimes, verify
from ...measure import Profile, profile, side_by_side
from ...training import evaluate
from ..forms import Form, packed

if TYPE_CHECKING:
    from .stages import Stages

_MADE_BY = {
    "dense.safetensors": ("train",),
    "pruned.safetensors": ("rounds", "rules", "sparsify", "recover", "train"),
    "quantized.safetensors": ("qat", "quantize", "attention"),
}
"""The stages that may have written a form last, the latest first."""


def verify_file(stages: Stages, _: str) -> dict[str, Any]:
    """On validation images: the test images are for the very end."""
    last = stages.forms[-1]
    float_forms = [form for form in stages.forms[:-1] if "/" not in form.weights]
    against = float_forms[-1].exported if float_forms else None
    found = verify(
        stages.folder.path / last.exported,
        stages.model(last.weights),
        stages.data.val,
        against=None if against is None else stages.folder.path / against,
        backend=stages.recipe.export.backend,
        threads=stages.recipe.export.threads,
    )
    # where the folder lies is nothing that a run tells
    return {"verification": {**plain(found), "path": last.exported, "against": against}}


def measure_files(stages: Stages, _: str) -> dict[str, Any]:
    """The only place that reads the test images: every file once, in the runtime it is deployed on."""
    backend, threads = stages.recipe.export.backend, stages.recipe.export.threads
    files = {form.label: stages.folder.path / form.exported for form in stages.forms}
    with open_runtimes(files, backend=backend, threads=threads) as runtimes:
        accuracies = {label: evaluate(runtime, stages.data.test) for label, runtime in runtimes.items()}
        latencies = side_by_side(runtimes, stages.example[:1].numpy(), threads=threads)
    rows = []
    for form in stages.forms:
        cost, timed = profile(stages.model(form.weights), stages.example), latencies[form.label]
        rows.append(
            {
                "name": form.label,
                "accuracy": accuracies[form.label],
                "val_accuracy": _val_accuracy(stages, form),
                "params": cost.params,
                "macs": cost.macs,
                "file": form.exported,
                "bytes": (stages.folder.path / form.exported).stat().st_size,
                **_compressed(stages, form),
                "latency": {
                    "median_ms": timed.median_ms,
                    "p95_ms": timed.p95_ms,
                    "backend": runtimes[form.label].backend,
                    "threads": threads,
                    "batch": timed.batch,
                },
            }
        )
    return {"stages": rows, "layers": _layers(stages)}


def _val_accuracy(stages: Stages, form: Form) -> float | None:
    for row in _rounds(stages):
        if form.weights.endswith(f"/{row['name'].replace(', ', '-').replace(' ', '-')}.safetensors"):
            return float(row["val_accuracy"])
    last = next(name for name in _MADE_BY[form.weights] if name in stages.results)
    accuracy: float | None = stages.results[last]["val_accuracy"]
    return accuracy


def _compressed(stages: Stages, form: Form) -> dict[str, int]:
    path = stages.folder.path / form.compressed
    return {} if not packed(stages.recipe) else {"compressed_bytes": path.stat().st_size}


def _rounds(stages: Stages) -> list[dict[str, Any]]:
    """What rounds or a rule file left behind, one entry each."""
    name = "rounds" if stages.recipe.rounds is not None else "rules"
    rows: list[dict[str, Any]] = stages.results.get(name, {}).get("rounds", [])
    return rows


def _layers(stages: Stages) -> list[dict[str, Any]]:
    """The layers of the last form, each with what it kept of the dense network's output channels."""
    dense = {layer.name: layer for layer in profile(stages.model("dense.safetensors"), stages.example).layers}
    last: Profile = profile(stages.model(stages.forms[-1].weights), stages.example)
    rows = []
    for layer in last.layers:
        before = dense.get(layer.name)
        channels = [one.weight_shape[0] if one and one.weight_shape else None for one in (layer, before)]
        rows.append(
            {
                "name": layer.name,
                "type": layer.type,
                "shape": list(layer.weight_shape),
                "params": layer.params,
                "macs": layer.macs,
                "bits": layer.bits,
                "channels": channels[0],
                "dense_channels": channels[1],
                "kept": channels[0] / channels[1] if channels[0] and channels[1] else None,
            }
        )
    return rows


def plain(value: Any) -> Any:
    """`value` as JSON-able parts; a path becomes its name, the single times of a latency are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.repr
        }
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.name if isinstance(value, Path) else value
