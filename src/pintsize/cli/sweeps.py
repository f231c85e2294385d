"""The verb `sweep`: many recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .inputs import DataName, OptionalModel, Verbose
from .verbs import Told, told, verb


@verb(place=11)
def sweep(
    file: Annotated[Path, typer.Argument(help="The sweep file: a recipe, and the fields that vary.")], *,
    model: OptionalModel = None, data: DataName | None = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the sweep; on a cluster, on shared storage.")
    ] = Path("runs/sweep"),
    engine: Annotated[
        str, typer.Option(help="ray, serial (in this process), or auto: Ray where it is installed.")
    ] = "auto",
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; by default this machine alone.")] = None,
    verbose: Verbose = 0, **options: Any,
) -> Told:  # fmt: skip
    """Run all trials of a sweep, on one machine or many, and compare them; again, to go on where it was."""
    from ..errors import OperationError
    from ..search.sweep import COSTS
    from ..search.sweep import sweep as run
    from ..storage.logs import to_stderr

    to_stderr(verbose)
    found = run(file, out=out, model=model, data=data, engine=engine, address=address, **options)
    failed = [trial for trial in found.trials if trial.state == "failed"]
    lines = [
        f"\nfront by bytes  {', '.join(found.front()) or 'none'}",
        f"report          {found.report or 'none'}",
    ]
    lines += [f"failed          {t.name}: {t.reason}{f'; {t.hint}' if t.hint else ''}" for t in failed]
    values = {"folder": found.folder, "report": found.report, "trials": list(found.trials), "points": found.points,
              "front": {cost: found.front(cost) for cost in COSTS}}  # fmt: skip
    failure = OperationError(
        f"{len(failed)} of {len(found.trials)} trials", "they failed", f"see {found.folder / 'log.txt'}, and start again"
    )  # fmt: skip
    return told(values, found, "\n".join(lines), failed=failure if failed else None)
