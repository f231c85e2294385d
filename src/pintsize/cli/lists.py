"""The verbs that list what there is: `models`, `datasets`."""

from __future__ import annotations

from typing import Annotated

import typer

from .verbs import Told, told, verb


@verb(place=95, bare=True)
def models(
    pattern: Annotated[
        str | None, typer.Argument(help="Such as 'resnet*', 'timm:mobilenetv3*' or 'torchvision:*'.")
    ] = None,
) -> Told:
    """List the networks that have a name, or those of timm or torchvision that match a pattern."""
    from .. import models as named

    names = named.list(pattern)
    return told({"models": names}, "\n".join(names))


@verb(place=96, bare=True)
def datasets() -> Told:
    """List the data sets, and where they are or how to get them."""
    from ..data import describe

    entries = describe()
    width = max(len(entry.name) for entry in entries)
    lines = [
        f"{entry.name.ljust(width)}  {entry.summary}\n{' ' * width}  "
        f"{'at' if entry.found else 'not here:'} {entry.where}"
        for entry in entries
    ]
    return told({"datasets": entries}, "\n".join(lines))
