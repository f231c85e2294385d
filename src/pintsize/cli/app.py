"""The command-line application: its verbs, and what it does before any of them."""

from __future__ import annotations

from typing import Annotated

import typer

from ..version import __version__
from . import viz
from .verbs import VERBS


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pintsize {__version__}")
        raise typer.Exit


def _pintsize(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make a trained vision network small and fast: prune, quantize, export, verify."""


def application() -> typer.Typer:
    """The application, of all verbs that are registered by now."""
    made = typer.Typer(
        name="pintsize",
        help="Make a trained vision network small and fast: prune, quantize, export, verify.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    made.callback()(_pintsize)
    for name, verb in sorted(VERBS.items(), key=lambda item: item[1].place):
        made.command(name.replace("_", "-"), no_args_is_help=not verb.bare)(verb.run)
    made.add_typer(viz.app, name="viz")
    return made


app = application()
