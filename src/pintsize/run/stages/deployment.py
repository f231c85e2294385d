"""The last stages of a run: the file is written, held against the network, and every form is measured."""

from __future__ import annotations

from typing import Any

import torch

from ...data.batches import arrays, rows, size, split_batch
from ...deploy import export, open_runtimes, verify
from ...deploy.openvino import runtime as openvino
from ...measure import Profile, profile, side_by_side
from ...recipe.recipe import Recipe
from ...tables import jsonable, judged
from ...tasks.imitation import Imitation
from ...tasks.task import relative_errors
from ...tasks.teaching import plain
from ...training import evaluate
from ..forms import Form
from .stages import DENSE, Stage, Stages, packed, stage

_PICTURES = 4
_JUDGED = 128
"""Test images among which the largest disagreements are looked for."""


class _Closing(Stage):
    """A stage of every run, quick or measured on this machine."""

    section, shared = "export", False

    def wanted(self, recipe: Recipe) -> bool:
        return True

    def inputs(self, run: Stages) -> Any:
        return [run.recipe.export.backend, run.recipe.export.threads]


@stage
class Export(_Closing):
    """The files that are deployed, one for each form."""

    name, place = "export", 80

    def inputs(self, run: Stages) -> Any:
        licence = run.recipe.export.licence
        return [run.recipe.export.opset, self.outputs(run), *([] if licence is None else [licence])]

    def outputs(self, run: Stages) -> list[str]:
        packs = [form.compressed for form in run.forms] if packed(run.recipe) else []
        return [form.exported for form in run.forms] + packs

    def make(self, run: Stages, key: str) -> dict[str, Any]:
        about: dict[str, Any] = {"example": run.example, "licence": run.recipe.export.licence}
        known = {"classes": run.data.classes, "mean": run.data.mean, "std": run.data.std}
        images: dict[str, Any] = {key: value for key, value in known.items() if value}  # loaders do not tell
        for form in run.forms:
            network = run.model(form.weights)
            if packed(run.recipe):
                export(network, run.folder.path / form.compressed, **about)
            path = run.folder.path / form.exported
            export(network, path, opset=run.recipe.export.opset, **images, **about)
        return {}


@stage
class Verify(_Closing):
    """The deployed file, on validation images: the test images are for the very end."""

    name, place = "verify", 81

    def needs(self, run: Stages) -> None:
        """The runtime: that it is missing is told before hours of training."""
        if run.recipe.export.backend == "openvino":
            openvino.package()

    def make(self, run: Stages, key: str) -> dict[str, Any]:
        last = run.forms[-1]
        float_forms = [form for form in run.forms[:-1] if "/" not in form.weights]
        against = float_forms[-1].exported if float_forms else None
        found = verify(
            run.folder.path / last.exported,
            run.model(last.weights),
            run.data.val,
            against=None if against is None else run.folder.path / against,
            backend=run.recipe.export.backend,
            threads=run.recipe.export.threads,
        )
        # where the folder lies is nothing that a run tells
        return {
            "verification": {
                **jsonable(found, lambda path: path.name),
                "path": last.exported,
                "against": against,
            }
        }


@stage
class Measure(_Closing):
    """Every file once, in the runtime it is deployed on: the only place that reads the test images."""

    name, place = "measure", 82

    def make(self, run: Stages, key: str) -> dict[str, Any]:
        backend, threads = run.recipe.export.backend, run.recipe.export.threads
        files = {form.label: run.folder.path / form.exported for form in run.forms}
        with open_runtimes(files, backend=backend, threads=threads) as runtimes:
            accuracies = {label: evaluate(runtime, run.data.test) for label, runtime in runtimes.items()}
            _draw_examples(run)
            _draw_seen(run)
            _draw_disagreements(run)
            latencies = side_by_side(runtimes, arrays(run.example), threads=threads)
        table = []
        for form in run.forms:
            cost, timed = profile(run.model(form.weights), run.example), latencies[form.label]
            latency = {
                "median_ms": timed.median_ms,
                "p95_ms": timed.p95_ms,
                "backend": runtimes[form.label].backend,
                "threads": threads,
                "batch": timed.batch,
            }
            table.append(
                {
                    "name": form.label,
                    **run.figures(accuracies[form.label]),
                    **run.figures(_on_validation(run, form), "val_"),
                    "params": cost.params,
                    "macs": cost.macs,
                    "file": form.exported,
                    "bytes": (run.folder.path / form.exported).stat().st_size,
                    **_compressed(run, form),
                    "latency": latency,
                }
            )
        return {"stages": table, "layers": _layers(run)}


def _draw_examples(run: Stages) -> None:
    """A few validation images as the dense and the last network see them, into the folder's pictures."""
    from ...viz import style

    if not run.task.draws:
        return
    inputs, targets = split_batch(next(iter(run.data.val.batches(_PICTURES))), run.model(DENSE))
    inputs, targets = (rows(each, 0, _PICTURES, of=size(inputs)) for each in (inputs, targets))
    chosen = {"dense": run.forms[0].weights, "compressed": run.forms[-1].weights}
    with torch.no_grad():
        outputs = {name: run.task.outputs(run.model(file), inputs) for name, file in chosen.items()}
    figure = run.task.picture(inputs, outputs, targets, run.data.classes)
    if figure is not None:
        style.to_png(figure, run.folder.path / "figures" / "examples.png")


def _draw_seen(run: Stages) -> None:
    """A few images without labels as the network sees them: whether size, border and colours are what it was made for."""
    from ...viz import draw_pictures, style

    if hasattr(run.data.val, "pictures"):
        figure = draw_pictures(run.data.val.pictures(2 * _PICTURES))
        style.to_png(figure, run.folder.path / "figures" / "what-the-network-sees.png")


def _draw_disagreements(run: Stages) -> None:
    """The test images of which the compressed network says something else than the dense one, the worst first."""
    from ...viz import draw_pictures, style

    if not isinstance(run.task, Imitation) or not hasattr(run.data.test, "pictures"):
        return
    model, errors, seen = run.model(run.forms[-1].weights), [], run.data.test
    with torch.no_grad():
        for inputs, targets in seen.take(torch.arange(min(_JUDGED, len(seen)))).batches(16):
            errors.append(relative_errors(plain(run.task.outputs(model, inputs)), plain(targets)).sqrt())
    worst = torch.cat(errors).sort(descending=True)
    chosen = worst.indices[: 2 * _PICTURES].tolist()
    parts: list[Any] = [seen.take(torch.tensor([at])) for at in chosen]
    pictures = torch.cat([part.pictures(1) for part in parts])
    titles = [f"off by {100 * error:.3g} %" for error in worst.values[: len(chosen)].tolist()]
    figure = draw_pictures(pictures, titles=titles)
    style.to_png(figure, run.folder.path / "figures" / "largest-disagreements.png")


def _on_validation(run: Stages, form: Form) -> float | None:
    """What its stage said of it; of a network on the way, its round."""
    rounds = [row for result in run.results.values() for row in result.get("rounds", [])]
    for row in rounds:
        if form.weights.endswith(f"/{row['name'].replace(', ', '-').replace(' ', '-')}.safetensors"):
            return float(row["val_accuracy"])
    return judged(run.results[run.made_by[form.weights]], "val_")


def _compressed(run: Stages, form: Form) -> dict[str, int]:
    path = run.folder.path / form.compressed
    return {"compressed_bytes": path.stat().st_size} if packed(run.recipe) else {}


def _layers(run: Stages) -> list[dict[str, Any]]:
    """The layers of the last form, each with what it kept of the dense network's output channels."""
    dense = {layer.name: layer for layer in profile(run.model(DENSE), run.example).layers}
    last: Profile = profile(run.model(run.forms[-1].weights), run.example)
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
