"""A file held against the model it was exported from, on real images, in the real runtime."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..data.split import Split
from ..errors import InputError, VerificationFailed
from ..tables import Table, Tabular
from ..units import bytes_text, milliseconds_text
from .layers import first_divergence, layer_errors
from .onnx.trace import evaluating
from .runtime import Runtime, open_runtime, opens, size_of

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
    agreement: float
    """Percent of the images for which file and model have the same top-1 class."""
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
    """Where images have another top-1 class: the first layer whose output differs by more than rounding."""
    agreement_at_least: float
    ok: bool
    """Whether the agreement reaches `agreement_at_least`."""

    def __rich__(self) -> Table:
        """All figures, a line each."""
        rows = [
            ("same top class", f"{self.agreement:.2f} % of {self.images} images"),
            ("largest difference of logits", f"{self.max_logit_error:.3g}"),
            ("mean difference of logits", f"{self.mean_logit_error:.3g}"),
        ]
        if self.accuracy is not None:
            rows.append(("accuracy", f"{self.accuracy:.2f} % (model {self.model_accuracy:.2f} %)"))
        rows.append(("size", bytes_text(self.bytes)))
        rows.append((
            f"latency, {self.threads} thread{'' if self.threads == 1 else 's'}",
            f"{milliseconds_text(self.latency.median_ms)} median, {milliseconds_text(self.latency.p95_ms)} p95",
        ))  # fmt: skip
        if self.speedup is not None:
            rows.append((f"against {self.against}", f"{self.speedup:.2f}× as fast"))
        if self.first_divergent is not None:
            rows.append(("first layer that differs", self.first_divergent))
        return Table((f"verified in {self.backend}", self.path), rows)

    def __str__(self) -> str:
        lines = [
            f"{self.path}: verified on {self.images} images in {self.backend}",
            f"agreement {self.agreement:.2f} %, largest logit difference {self.max_logit_error:.3g}",
        ]
        if self.accuracy is not None:
            lines.append(f"accuracy {self.accuracy:.2f} % (model {self.model_accuracy:.2f} %)")
        lines.append(
            f"{bytes_text(self.bytes)}, {milliseconds_text(self.latency.median_ms)} for one image on {self.threads} threads"
        )
        if self.speedup is not None:
            lines.append(f"{self.speedup:.2f}× as fast as {self.against}")
        if self.first_divergent is not None:
            lines.append(f"first layer that differs: {self.first_divergent}")
        return "\n".join(lines)


@dataclass
class _Comparison:
    """Running sums over the batches."""

    images: int = 0
    same: int = 0
    labelled: int = 0
    file_right: int = 0
    model_right: int = 0
    largest: float = 0.0
    total: float = 0.0
    outputs: int = 0
    sample: Tensor = field(default_factory=lambda: torch.empty(0))
    """A few images, to look into the layers with."""

    def add(self, ours: Tensor, reference: Tensor, labels: Tensor | None) -> None:
        difference = (ours.double() - reference.double()).abs()
        if not torch.isfinite(difference).all():
            difference = torch.where(torch.isfinite(difference), difference, torch.inf)
        top, expected = ours.argmax(1), reference.argmax(1)
        self.images += len(ours)
        self.same += int((top == expected).sum())
        self.largest = max(self.largest, float(difference.max()))
        self.total += float(difference.sum())
        self.outputs += difference.numel()
        if labels is not None:
            self.labelled += len(labels)
            self.file_right += int((top == labels).sum())
            self.model_right += int((expected == labels).sum())

    def percent(self, count: int) -> float | None:
        return 100 * count / self.labelled if self.labelled else None


def verify(
    path: str | os.PathLike[str],
    model: nn.Module,
    split: Any,
    *,
    threads: int = 2,
    batch_size: int = 64,
    backend: str | None = None,
    agreement_at_least: float = 99.0,
    limit: int | None = None,
    against: str | os.PathLike[str] | None = None,
    repeats: int = 50,
) -> Verification:
    """Run a file and the model it came from on the same images and compare.

    Args:
        path: the exported file.
        model: the simulated model; runs in eval mode where it is, and is unchanged.
        split: a split, or any iterable of batches: (images, labels) or images alone.
        threads: of the runtime and of the timing.
        batch_size: for splits.
        backend: see `open_runtime`.
        agreement_at_least: percent of top-1 agreement below which this raises.
        limit: compare this many images at most.
        against: another file, e.g. the fp32 export; its latency is measured in turns with the file's, in the same
            runtime if that opens it.
        repeats: timed calls of each at batch 1.

    Raises:
        VerificationFailed: the agreement is lower, or an output is not finite; the message has the figures.
        InputError: there are no images, or the file does not take them.
    """
    if not 0 <= agreement_at_least <= 100:
        raise InputError(f"agreement_at_least={agreement_at_least}", "it is no percentage", "pass 0 to 100")
    path = Path(path)
    runtime = open_runtime(path, backend=backend, threads=threads)
    other = None
    if against is not None:
        other = open_runtime(against, backend=backend if opens(backend, against) else None, threads=threads)
    try:
        found, first = _compare(runtime, model, _batches(split, batch_size, limit))
        latency, other_latency = _time(runtime, other, first, threads, repeats)
        nodes = runtime.integer_nodes()
    finally:
        runtime.close()
        if other is not None:
            other.close()
    agreement = 100 * found.same / found.images
    where = None
    if found.same < found.images and path.suffix == ".onnx":
        where = first_divergence(layer_errors(path, model, found.sample, backend=backend, threads=threads))
    result = Verification(
        path=str(path), backend=runtime.backend, threads=threads, images=found.images, agreement=agreement,
        max_logit_error=found.largest, mean_logit_error=found.total / max(found.outputs, 1),
        accuracy=found.percent(found.file_right), model_accuracy=found.percent(found.model_right),
        latency=latency, against=None if against is None else str(against), against_latency=other_latency,
        speedup=None if other_latency is None else other_latency.median_ms / latency.median_ms,
        bytes=size_of(path), integer_nodes=nodes, first_divergent=where,
        agreement_at_least=agreement_at_least,
        ok=agreement >= agreement_at_least and found.largest != float("inf"),
    )  # fmt: skip
    if not result.ok:
        raise VerificationFailed(
            str(path), _figures(result), "do not deploy it; compare with a different export or runtime"
        )
    return result


def _figures(result: Verification) -> str:
    text = (
        f"top-1 agreement with the model is {result.agreement:.2f} % on {result.images} images, "
        f"{result.agreement_at_least:g} % are asked for "
        f"(largest logit difference {result.max_logit_error:.4g}, mean {result.mean_logit_error:.4g}"
    )
    if result.accuracy is not None and result.model_accuracy is not None:
        text += f"; accuracy {result.accuracy:.2f} % on the file, {result.model_accuracy:.2f} % in the model"
    where = result.first_divergent
    return text + (f"; the first layer that differs is {where})" if where else ")")


def _batches(split: Any, batch_size: int, limit: int | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """(images, labels) with labels where there are any, `limit` images in all."""
    if isinstance(split, Split) and limit is not None:
        split = split.at_most(limit)  # the first images of a folder are all of one class
    source: Iterable[Any] = split.batches(batch_size) if hasattr(split, "batches") else split
    left = limit
    for batch in source:
        images, labels = batch[:2] if isinstance(batch, tuple | list) else (batch, None)
        if left is not None:
            images, labels = images[:left], None if labels is None else labels[:left]
            left -= len(images)
        if len(images):
            yield images, labels
        if left == 0:
            return


def _compare(
    runtime: Runtime, model: nn.Module, batches: Iterator[tuple[Tensor, Tensor | None]]
) -> tuple[_Comparison, Tensor]:
    """The comparison over all batches, and the first image."""
    start = next(batches, None)
    if start is None:
        raise InputError("split", "it has no images", "pass at least one batch")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    fixed = runtime.input_shape[0] if runtime.input_shape else None
    count = fixed or 8
    found = _Comparison(sample=start[0][:count].cpu())
    with evaluating(model), torch.no_grad():
        for images, labels in itertools.chain([start], batches):
            reference = model(images.to(device)).cpu()
            pieces = images.cpu().split(fixed) if fixed is not None else (images.cpu(),)
            ours = torch.cat([runtime(piece) for piece in pieces if fixed is None or len(piece) == fixed])
            kept = len(ours)  # a file of fixed batch cannot take a shorter last one
            if kept:
                found.add(ours, reference[:kept], None if labels is None else labels[:kept].cpu())
    if not found.images:
        raise InputError(
            "split", f"no batch has the {fixed} images that the file takes at once", "pass larger batches"
        )
    return found, start[0][:1].cpu()


def _time(
    runtime: Runtime, other: Runtime | None, image: Tensor, threads: int, repeats: int
) -> tuple[Latency, Latency | None]:
    from ..measure import side_by_side

    fixed = runtime.input_shape[0] if runtime.input_shape else None
    batch = image.expand(fixed or 1, *image.shape[1:]).contiguous().numpy()
    contenders = {"file": runtime} if other is None else {"file": runtime, "against": other}
    times = side_by_side(contenders, batch, repeats=repeats, threads=threads)
    return times["file"], times.get("against")
