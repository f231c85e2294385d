"""A file held against the model it was exported from, on real images, in the real runtime."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..data.batches import Inputs, arguments, batches_of, class_labels, moved, rows, run, size
from ..errors import InputError, InputTypeError, VerificationFailed
from ..graph.inputs import batched
from ..tables import Table, Tabular
from ..tasks import Task
from ..tasks.catalog import with_task
from ..tasks.classification import Classification
from ..tasks.own import described
from ..units import Scale, bytes_text, milliseconds_text
from .comparison import Comparison
from .layers import first_beyond_rounding
from .onnx.trace import evaluating
from .runtime import Runtime, as_written, copied, file_inputs, open_runtime, opens, size_of
from .tolerance import FLOAT, outputs_of

if TYPE_CHECKING:
    from ..measure import Latency


@dataclass(frozen=True)
class Verification(Tabular):
    """What `verify` found; `dataclasses.asdict` makes it JSON-able."""

    path: str
    backend: str
    threads: int
    images: int
    """How many images were compared."""
    relative_error: float
    """‖file − model‖ / ‖model‖ of the output that is nearest to its tolerance, or furthest beyond it."""
    tolerance: float
    """What rounding explains of it; measured, see `pintsize.deploy.tolerance`."""
    agreement: float | None
    """Percent of the images for which file and model have the same top-1 class; None where outputs are no logits
    [B, K ≥ 2] or targets are no classes."""
    max_logit_error: float
    """Largest absolute difference of an output."""
    mean_logit_error: float
    accuracy: float | None
    """Of the file, percent; None if the images have no labels."""
    model_accuracy: float | None
    """Of the simulated model on the same images, percent."""
    latency: Latency
    """Of the file at batch 1."""
    against: str | None
    """The file whose latency was measured in turns with this one's."""
    against_latency: Latency | None
    speedup: float | None
    """Median latency of `against` over that of the file."""
    bytes: int
    integer_nodes: dict[str, dict[str, int]] | None
    """What the runtime computes in integers and what in float; None if it does not tell."""
    first_divergent: str | None
    """Where outputs or classes differ: the first layer whose output differs by more than rounding."""
    agreement_at_least: float
    ok: bool
    """Whether every output is finite and within its tolerance, and the agreement reaches `agreement_at_least`."""
    machine: str | None = None
    """What this machine lacks of the one that the file was made for; None: nothing."""
    metric: float | None = None
    """Of the file, of a task other than classification; None without targets."""
    model_metric: float | None = None
    metric_name: str | None = None
    metric_unit: str = ""

    def __rich__(self) -> Table:
        """All figures, a line each."""
        rows = []
        if self.agreement is not None:
            label = "same top class" if self.metric_name is None else "same decisions"
            rows.append((label, f"{self.agreement:.2f} % of {self.images} images"))
        rows += [
            ("relative error", f"{self.relative_error:.2g}, rounding explains {self.tolerance:.2g}"),
            ("largest difference of outputs", f"{self.max_logit_error:.3g}"),
            ("mean difference of outputs", f"{self.mean_logit_error:.3g}"),
        ]
        if self.accuracy is not None:
            rows.append(("accuracy", f"{self.accuracy:.2f} % (model {self.model_accuracy:.2f} %)"))
        if self.metric is not None and self.model_metric is not None:
            rows.append((str(self.metric_name), self._metric_text()))
        rows.append(("size", bytes_text(self.bytes)))
        rows.append((
            f"latency, {self.threads} thread{'' if self.threads == 1 else 's'}",
            f"{milliseconds_text(self.latency.median_ms)} median, {milliseconds_text(self.latency.p95_ms)} p95",
        ))  # fmt: skip
        if self.speedup is not None:
            rows.append((f"against {self.against}", f"{self.speedup:.2f}× as fast"))
        if self.first_divergent is not None:
            rows.append(("first layer that differs", self.first_divergent))
        if self.machine is not None:
            rows.append(("this machine", self.machine))
        return Table((f"verified in {self.backend}", self.path), rows)

    def __str__(self) -> str:
        lines = [
            f"{self.path}: verified on {self.images} images in {self.backend}",
            f"relative error {self.relative_error:.2g} (rounding explains {self.tolerance:.2g}), largest difference of "
            f"outputs {self.max_logit_error:.3g}",
        ]
        if self.agreement is not None:
            lines[1] = f"agreement {self.agreement:.2f} %, {lines[1]}"
        if self.accuracy is not None:
            lines.append(f"accuracy {self.accuracy:.2f} % (model {self.model_accuracy:.2f} %)")
        if self.metric is not None and self.model_metric is not None:
            lines.append(f"{self.metric_name} {self._metric_text()}")
        lines.append(
            f"{bytes_text(self.bytes)}, {milliseconds_text(self.latency.median_ms)} for one image on {self.threads} threads"
        )
        if self.speedup is not None:
            lines.append(f"{self.speedup:.2f}× as fast as {self.against}")
        if self.first_divergent is not None:
            lines.append(f"first layer that differs: {self.first_divergent}")
        if self.machine is not None:
            lines.append(f"this machine: {self.machine}")
        return "\n".join(lines)

    def _metric_text(self) -> str:
        scale = Scale(str(self.metric_name), self.metric_unit)
        return f"{scale.told(self.metric or 0.0)} (model {scale.told(self.model_metric or 0.0)})"


def verify(
    path: str | os.PathLike[str],
    model: nn.Module,
    split: Any,
    *,
    task: Task | str | Mapping[str, Any] | None = None,
    threads: int = 2,
    batch_size: int = 64,
    backend: str | None = None,
    agreement_at_least: float = 99.0,
    tolerance: float | None = None,
    limit: int | None = None,
    against: str | os.PathLike[str] | None = None,
    repeats: int = 50,
) -> Verification:
    """Run a file and the model it came from on the same images and compare every output.

    The file runs as others open it: with open dimensions as they are in the file, on whole batches and on the first
    image alone.

    Args:
        path: the exported file.
        model: the simulated model; runs in eval mode where it is, and is unchanged.
        split: a split, or any iterable of batches, `inputs` or `(inputs, targets)`: see `pintsize.data.split_batch`.
        task: see `pintsize.train`: its metric, of file and model, and its agreement are told.
        threads: of the runtime and of the timing.
        batch_size: for splits.
        backend: see `open_runtime`.
        agreement_at_least: percent of top-1 agreement below which this raises, where there are classes.
        tolerance: relative error of an output above which this raises; by default what rounding explains, measured on
            the model: 1e-4 for a float network, more for a quantized one the more layers it has and the fewer bits.
        limit: compare this many images at most.
        against: another file, e.g. the fp32 export; its latency is measured in turns with the file's, in the same
            runtime if that opens it.
        repeats: timed calls of each at batch 1.

    Raises:
        VerificationFailed: an output differs by more, is not finite, or the agreement is lower; the message has the
            figures.
        InputError: there are no images, or the file does not take them.
    """
    if not 0 <= agreement_at_least <= 100:
        raise InputError(f"agreement_at_least={agreement_at_least}", "it is no percentage", "pass 0 to 100")
    if tolerance is not None and not tolerance >= 0:
        raise InputError(
            f"tolerance={tolerance}", "it is no relative error", "pass e.g. 1e-3, or leave it out"
        )
    path = Path(path)
    judging, split = with_task(task, split)
    batches = batches_of(split, limit=limit, model=model, batch_size=batch_size)
    if isinstance(judging, Classification) and task is not None:
        batches = _classified(batches)
    runtime = open_runtime(path, backend=backend, threads=threads)
    other = None
    if against is not None:
        other = open_runtime(against, backend=backend if opens(backend, against) else None, threads=threads)
    try:
        found, alone, first = _compare(as_written(runtime), model, batches, judging)
        as_written(runtime, False)
        latency, other_latency = _time(runtime, other, first, threads, repeats)
        nodes = runtime.integer_nodes()
    finally:
        runtime.close()
        if other is not None:
            other.close()
    error, allowed = _worst([found, alone], model, tolerance)
    agreement = found.agreement
    ok = error <= allowed and (agreement is None or agreement >= agreement_at_least)
    metric = judging.metric if found.file_records else None
    where = None
    if path.suffix == ".onnx" and (not ok or (agreement is not None and agreement < 100)):
        where = first_beyond_rounding(
            path, model, arguments(found.sample[0]), backend=backend, threads=threads
        )
    count = sum(sums.count for sums in found.outputs)
    result = Verification(
        path=str(path), backend=runtime.backend, threads=threads, images=found.images,
        relative_error=error, tolerance=allowed, agreement=agreement,
        max_logit_error=max((sums.largest for sums in found.outputs), default=0.0),
        mean_logit_error=sum(sums.total for sums in found.outputs) / max(count, 1),
        accuracy=found.percent(found.file_right), model_accuracy=found.percent(found.model_right),
        latency=latency, against=None if against is None else str(against), against_latency=other_latency,
        speedup=None if other_latency is None else other_latency.median_ms / latency.median_ms,
        bytes=size_of(path), integer_nodes=nodes, first_divergent=where,
        agreement_at_least=agreement_at_least, ok=ok, machine=runtime.machine,
        metric=found.metric(found.file_records), model_metric=found.metric(found.model_records),
        metric_name=None if metric is None else metric.name, metric_unit="" if metric is None else metric.unit,
    )  # fmt: skip
    if not result.ok:
        cause = found.structure or _figures(result)
        raise VerificationFailed(
            str(path),
            cause,
            "do not deploy it; export this model again, or compare with a different export or runtime",
        )
    return result


def _classified(batches: Iterator[tuple[Inputs, Any]]) -> Iterator[tuple[Inputs, Any]]:
    """The batches, of a classification that was asked for."""
    for inputs, targets in batches:
        if targets is not None and class_labels(targets, size(inputs)) is None:
            raise InputTypeError(
                f"targets {described(targets)} of {size(inputs)} images", "a classification needs one class for each",
                "give out whole numbers [B], or name another task, such as task='segmentation'",
            )  # fmt: skip
        yield inputs, targets


def _worst(views: list[Comparison], model: nn.Module, tolerance: float | None) -> tuple[float, float]:
    """The relative error of the output that is furthest beyond its tolerance, or nearest to it, and that tolerance."""
    pairs = [(0.0, FLOAT if tolerance is None else tolerance)]
    for view in (view for view in views if view.images):
        limits: Sequence[float] = [FLOAT if tolerance is None else tolerance] * len(view.errors)
        if tolerance is None and max(view.errors, default=0.0) > FLOAT and not view.structure:
            with evaluating(model), torch.no_grad():
                limits = view.allowed(model)
        pairs += zip(view.errors, limits, strict=True)
    return max(pairs, key=lambda pair: pair[0] / max(pair[1], 1e-30))


def _figures(result: Verification) -> str:
    text = (
        f"its outputs differ from the model's by {result.relative_error:.3g} of their size on {result.images} images, "
        f"{result.tolerance:.2g} is allowed (largest difference {result.max_logit_error:.4g}, mean "
        f"{result.mean_logit_error:.4g})"
    )
    if result.agreement is not None:
        text += (
            f"; top-1 agreement with the model is {result.agreement:.2f} % on {result.images} images, "
            f"{result.agreement_at_least:g} % are asked for"
        )
    if result.accuracy is not None and result.model_accuracy is not None:
        text += f"; accuracy {result.accuracy:.2f} % on the file, {result.model_accuracy:.2f} % in the model"
    if result.machine is not None:
        text += f"; this machine: {result.machine}"
    where = result.first_divergent
    return text + (f"; the first layer that differs is {where}" if where else "")


def _compare(
    runtime: Runtime, model: nn.Module, batches: Iterator[tuple[Inputs, Any]], task: Task
) -> tuple[Comparison, Comparison, Inputs]:
    """The comparison over all batches, that of the first image alone, and this image."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    fixed = runtime.input_shape[0] if runtime.input_shape else None
    found, alone = Comparison(task), Comparison(task)
    first: Inputs | None = None
    with batched(model), evaluating(model), torch.no_grad():
        for given, targets in batches:
            inputs, count = moved(given, device), size(given)
            if first is None and count:
                first = rows(inputs, 0, 1)
            step = fixed or count  # a file of fixed batch cannot take a shorter last one
            for at in range(0, count - step + 1, step) if step else ():
                _add(
                    found, runtime, model, rows(inputs, at, at + step), rows(targets, at, at + step, of=count)
                )
        if first is None:
            raise InputError("split", "it has no images", "pass at least one batch")
        if fixed is None:
            _add(alone, runtime, model, first, None)
    if not found.images:
        raise InputError(
            "split", f"no batch has the {fixed} images that the file takes at once", "pass larger batches"
        )
    return found, alone, first


def _add(found: Comparison, runtime: Runtime, model: nn.Module, inputs: Inputs, targets: Any) -> None:
    ours = outputs_of(runtime(*file_inputs(inputs, runtime)))
    outputs = run(model, copied(inputs))
    found.add(inputs, size(inputs), ours, outputs_of(outputs), targets, outputs)


def _time(
    runtime: Runtime, other: Runtime | None, image: Inputs, threads: int, repeats: int
) -> tuple[Latency, Latency | None]:
    from ..measure import side_by_side

    fixed = runtime.input_shape[0] if runtime.input_shape else None
    batch = tuple(
        leaf.expand(fixed or 1, *leaf.shape[1:]).contiguous().numpy() for leaf in file_inputs(image, runtime)
    )
    contenders = {"file": runtime} if other is None else {"file": runtime, "against": other}
    times = side_by_side(contenders, batch, repeats=repeats, threads=threads)
    return times["file"], times.get("against")
