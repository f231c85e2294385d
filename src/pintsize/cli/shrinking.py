"""The verb `shrink`: a file and pictures in, a smaller file out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .inputs import Channels, ImageSize, Mean, Resize, Scale, Std, TaskName, Verbose
from .loading import numbers
from .verbs import Told, refuse, told, verb


@verb(place=11)
def shrink(
    model: Annotated[str, typer.Argument(help="An .onnx or .safetensors file, or timm:NAME, torchvision:NAME.")], *,
    images: Annotated[Path | None, typer.Option("--images", "-i", help="Folder of pictures; no labels are needed.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="A data set with targets instead, such as coco:PATH; with --task.")
    ] = None,
    task: TaskName = None,
    macs: Annotated[float | None, typer.Option(help="Share of the multiply-accumulates to keep.")] = None,
    ratio: Annotated[float | None, typer.Option(help="Share of the channels to remove; 0: quantization only.")] = None,
    max_change: Annotated[
        float | None, typer.Option(help="Percent by which the outputs may change; 2 where no amount is given.")
    ] = None,
    hours: Annotated[float | None, typer.Option(help="Hours that the search for the best network may take.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of recovery after pruning; 5 if not told.")] = None,
    size: ImageSize = None, resize: Resize = None, mean: Mean = None, std: Std = None, scale: Scale = None,
    channels: Channels = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML file with whatever else a run is to do.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of the runtime.")] = 2,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")] = Path("runs/shrink"),
    verbose: Verbose = 0,
) -> Told:  # fmt: skip
    """Make a trained network small without labels: prune, recover, quantize, export, prove."""
    from ..report.outcome import outcome_lines
    from ..report.run import Judged
    from ..run import shrink as run
    from ..storage.logs import to_stderr
    from .loading import load_data

    refuse("shrink", "it is told no images", "pass --images PATH, or --labels DATA --task TASK",
           when=(images is None) == (labels is None))  # fmt: skip
    refuse(
        "--labels", "what they are for is not told", "pass --task", when=labels is not None and task is None
    )
    to_stderr(verbose)
    result = run(
        model, images if images is not None else load_data(str(labels), image_size=size),
        macs=macs, ratio=ratio, max_change=max_change, hours=hours, epochs=epochs, task=task, recipe=recipe, out=out,
        size=size, resize=resize, mean=numbers("mean", mean), std=numbers("std", std), scale=scale or 255,
        channels=channels or "rgb", seed=seed, threads=threads,
    )  # fmt: skip
    allowed = "" if result.max_change is None else f" of {result.max_change:g} allowed"
    verdict = "" if result.held else ": too much; keep more MACs, or train for more epochs"
    unit = Judged.model_validate(result.metrics.get("task") or {}).scale.points
    lines = [
        f"file    {result.path}",
        *([f"pruned  {result.pruned}"] if result.pruned else []),
        f"report  {result.report}",
    ]
    return told(
        {"file": result.path, "pruned": result.pruned, "report": result.report, "change": result.change,
         "max_change": result.max_change, "held": result.held, **result.metrics},
        result,
        "\n".join(["", *lines]) + f"\nchange  {result.change:.2f} {unit}{allowed}{verdict}{outcome_lines(result.metrics)}",
    )  # fmt: skip
