"""The options of `compress` and of the command line: each field of a recipe under one flat name.

A field has its own name where only one section has it; `recover`, `qat` and the fields that would be mistaken
for another carry their section's name before it: `recover_epochs`, `model_weights`, `quantize_ignore`. Each section says
so where it is declared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import unknown
from .channels import PruneSection
from .recipe import Recipe, merge
from .section import Entry, sections


@dataclass(frozen=True)
class Option:
    """One option."""

    name: str
    """Flat name, a Python keyword."""
    key: str
    """Its place in the recipe: `section.field`."""
    type: Any
    """Annotation of the field."""
    description: str
    default: Any
    title: str
    """Of the group it is listed in."""


class _Options(Mapping[str, Option]):
    """All options by flat name; a section that is registered later brings its own."""

    def __init__(self) -> None:
        self._known: tuple[str, ...] = ()
        self._table: dict[str, Option] = {}

    def _filled(self) -> dict[str, Option]:
        entries = sections()
        names = tuple(entry.name for entry in entries)
        if names != self._known:
            seed = Recipe.model_fields["seed"]
            found = [option for entry in entries for option in options_of(entry)]
            found.append(Option("seed", "seed", int, seed.description or "", seed.default, "Chance"))
            self._known, self._table = names, {option.name: option for option in found}
        return self._table

    def __getitem__(self, name: str) -> Option:
        return self._filled()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._filled())

    def __len__(self) -> int:
        return len(self._filled())


OPTIONS: Mapping[str, Option] = _Options()
"""All options by flat name."""


def options_of(entry: Entry, *, flat: bool = True) -> list[Option]:
    """The options of a section, by their flat names or by those of its fields."""
    fields = entry.fields()
    return [
        Option(
            name if flat else field,
            f"{entry.name}.{field}",
            fields[field].annotation,
            fields[field].description,
            fields[field].default,
            entry.title,
        )
        for field, name in entry.flat.items()
    ]


def changes(options: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe keys that `options` set; None stands for an option that was not given (`"none"` for null).

    Raises:
        InputError: there is no such option.
    """
    for name in options:
        if name not in OPTIONS:
            raise unknown("option", name, OPTIONS)
    return {OPTIONS[name].key: value for name, value in options.items() if value is not None}


def with_options(document: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's plain dictionary with `options` written over it; an amount to prune replaces the other."""
    new = changes(options)
    amounts = {f"prune.{amount}" for amount in PruneSection.AMOUNTS}
    if amounts & new.keys():
        cleared = dict.fromkeys(amounts - new.keys())
        new = {**cleared, **new}
    return merge(document, new)
