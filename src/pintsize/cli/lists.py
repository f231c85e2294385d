"""Verbs that list what there is: models, datasets."""

from __future__ import annotations

from . import options as o
from .output import emit


def models(*, as_json: o.AsJson = False) -> None:
    """List the networks that have a name."""
    from .. import models as named

    names = named.list()
    emit({"models": names}, "\n".join(names), as_json=as_json)


def datasets(*, as_json: o.AsJson = False) -> None:
    """List the data sets, and where they are or how to get them."""
    from ..data import describe

    entries = describe()
    width = max(len(entry.name) for entry in entries)
    lines = [
        f"{entry.name.ljust(width)}  {entry.summary}\n{' ' * width}  "
        f"{'at' if entry.found else 'not here:'} {entry.where}"
        for entry in entries
    ]
    emit({"datasets": entries}, "\n".join(lines), as_json=as_json)
