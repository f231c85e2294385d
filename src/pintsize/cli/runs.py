"""Verbs about whole runs: compress them, report on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .inputs import DataName, OptionalModel, Verbose
from .verbs import Told, told, verb


@verb(place=10)
def compress(
    *,
    model: OptionalModel = None,
    data: DataName | None = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML file; the options below overrule it.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")] = Path("runs/compress"),
    shared: Annotated[
        Path | None, typer.Option(help="Folder in which runs leave stages that they have in common.")
    ] = None,
    verbose: Verbose = 0,
    **options: Any,
) -> Told:
    """Train, prune, recover, quantize, export, verify and measure a network."""
    from ..run import compress as run
    from ..storage.logs import to_stderr

    to_stderr(verbose)
    result = run(model, data, recipe=recipe, out=out, shared=shared, **options)
    return told(
        {"file": result.path, "report": result.report, **result.metrics},
        result,
        f"\nfile    {result.path}\nreport  {result.report}{_budget(result.metrics)}"
        f"{_attention(result.metrics)}",
    )


def _budget(metrics: dict[str, Any]) -> str:
    """Whether a budget was met, and by which candidate; else why not, and what may help."""
    from ..units import COST_TEXTS

    found = metrics.get("budget")
    if found is None:
        return ""
    if found["met"]:
        return f"\nbudget  met: {found['chosen']}"
    text, unit = COST_TEXTS[found["minimize"]], " MACs" if found["minimize"] == "macs" else ""
    why = (
        f"every smaller network that was tried lost more than {found['max_drop']:g} points; allow more, or more epochs "
        "of recovery and minutes for the search"
        if found["limit"] is None
        else f"the cheapest network that was tried takes {text(found['least'])}{unit}; "
        f"allow more than {text(found['limit'])}{unit}"
    )
    return f"\nbudget  not met: {found['chosen']} ({why})"


def _attention(metrics: dict[str, Any]) -> str:
    """What pruning by attention left, and whether that was asked for."""
    from ..report.run import AttentionOutcome
    from ..report.summary import attention_text

    if metrics.get("attention") is None:
        return ""
    found = AttentionOutcome.model_validate(metrics["attention"])
    verdict = {True: "target met: ", False: "target not met: ", None: ""}[found.met]
    return f"\nattention  {verdict}{attention_text(found)}"


@verb(place=91)
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folder of a run; of several, to compare them.")],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="File to write: report.html in the run, or comparison.html of several."
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve the report on this machine while the run goes on.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of --watch; 0 takes any free one.")] = 0,
    as_json: bool = False,
) -> Told | None:
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
