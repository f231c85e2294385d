"""Verbs about whole runs: compress them, report on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .inputs import DataName, OptionalModel, Verbose
from .verbs import Told, told, verb


@verb(place=10)
def compress(
    *, model: OptionalModel = None, data: DataName | None = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML file; the options below overrule it.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")] = Path("runs/compress"),
    shared: Annotated[
        Path | None, typer.Option(help="Folder in which runs leave stages that they have in common.")
    ] = None,
    verbose: Verbose = 0, **options: Any,
) -> Told:  # fmt: skip
    """Train, prune, recover, quantize, export, verify and measure a network."""
    from ..report.outcome import outcome_lines
    from ..run import compress as run
    from ..storage.logs import to_stderr

    to_stderr(verbose)
    result = run(model, data, recipe=recipe, out=out, shared=shared, **options)
    return told(
        {"file": result.path, "report": result.report, **result.metrics},
        result,
        f"\nfile    {result.path}\nreport  {result.report}{outcome_lines(result.metrics)}",
    )


@verb(place=91)
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folder of a run; of several, to compare them.")], *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write: report.html in the run, or comparison.html.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve the report on this machine while the run goes on.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of --watch; 0 takes any free one.")] = 0, as_json: bool = False,
) -> Told | None:  # fmt: skip
    """Write the report of a run again, compare several runs, or follow one that goes on."""
    from ..errors import InputError
    from ..report import compare, serve, write

    if watch:
        if len(runs) > 1 or out is not None or as_json:
            raise InputError(
                "report --watch", "it serves one run and writes no file", "pass one run folder, without --out"
            )
        serve(runs[0], port=port, ready=lambda url: typer.echo(f"{url}  (ends with Ctrl-C)"))
        return None
    path = write(runs[0], out) if len(runs) == 1 else compare(runs, out or "comparison.html")
    return told({"report": path}, path)
