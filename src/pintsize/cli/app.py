"""The command-line application: its verbs, and what it does before any of them."""

from __future__ import annotations

from typing import Annotated

import typer

from ..version import __version__
from . import files, lists, network, quantizing, runs, show, sparse, sweep, viz

app = typer.Typer(
    name="pintsize",
    help="Make a trained vision network small and fast: prune, quantize, export, verify.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pintsize {__version__}")
        raise typer.Exit


@app.callback()
def _pintsize(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make a trained vision network small and fast: prune, quantize, export, verify."""


for _command in (
    runs.compress,
    network.train,
    network.profile,
    sparse.scan,
    network.prune,
    sparse.sparsify,
    sparse.rounds,
    network.quantize,
    quantizing.cluster,
    quantizing.fixed_point,
    files.export,
    files.unpack,
    files.verify,
    files.bench,
    sweep.sweep,
    runs.report,
    show.show,
    lists.models,
    lists.datasets,
):
    app.command(no_args_is_help=_command not in (lists.models, lists.datasets))(_command)

app.add_typer(viz.app, name="viz")
