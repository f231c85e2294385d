"""Verbs about whole runs: compress, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..options import OPTIONS
from . import options as o
from .output import emit


@o.with_recipe_options(*OPTIONS.values())
def compress(
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="A name, package.module:factory, or a .safetensors file; else the recipe's."
        ),
    ] = None,
    data: o.OptionalData = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML file; the options below overrule it.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")] = Path("runs/compress"),
    as_json: o.AsJson = False,
    **options: Any,
) -> None:
    """Train, prune, recover, quantize, export, verify and measure a network."""
    from ..pipeline import compress as run

    result = run(model, data, recipe=recipe, out=out, **options)
    emit(
        {"file": result.path, "report": result.report, **result.metrics},
        f"{result.table()}\n\nfile    {result.path}\nreport  {result.report}",
        as_json=as_json,
    )


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    *,
    as_json: o.AsJson = False,
) -> None:
    """Write the report of a run again, from its metrics."""
    from ..report import write

    path = write(run)
    emit({"report": path}, str(path), as_json=as_json)
