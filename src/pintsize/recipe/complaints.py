"""What pydantic says of a bad recipe, in our three parts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..errors import InputError
from .section import SECTIONS, Entry, sections


def checked(name: str, values: Mapping[str, Any], *, source: str) -> Any:
    """A section alone, from plain values.

    Raises:
        InputError: a key is unknown or a value out of range; `source` names it in the error.
    """
    try:
        return TypeAdapter(SECTIONS[name].options).validate_python(dict(values))
    except ValidationError as error:
        raise as_input_error(error, source, within=name) from None


def as_input_error(error: ValidationError, source: str, *, within: str | None = None) -> InputError:
    """The first complaint: the key, what is wrong, what it means; of a section alone, if it is `within` one."""
    first = error.errors()[0]
    place = [*([] if within is None else [within]), *(str(part) for part in first["loc"])]
    where = ".".join(place)
    named = f"{source}, {where}" if where else source
    if first["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        choices = _keys_beside(place)
        near = difflib.get_close_matches(place[-1], choices, n=2, cutoff=0.5)
        remedy = f"did you mean {' or '.join(near)}?" if near else f"the keys here are {', '.join(choices)}"
        return InputError(named, "there is no such key", remedy)
    if first["type"] == "missing":
        return InputError(named, "it is missing", f"write {place[-1]}: …")
    if first["type"] == "value_error":
        if isinstance(problem := first["ctx"]["error"], InputError):
            what = f"{named}: {problem.what}" if where else f"{named}, {problem.what}"
            return InputError(what, problem.cause, problem.remedy)
        return InputError(named, str(problem), "change the recipe or option")
    message = first["msg"][0].lower() + first["msg"][1:]
    what = f"{named} = {first['input']!r}" if where else source
    return InputError(what, message, f"it means: {_meaning(place)}")


def _entry(place: list[str]) -> Entry | None:
    """The section that holds the key at `place`."""
    return SECTIONS.get(place[0]) if len(place) > 1 else None


def _keys_beside(place: list[str]) -> list[str]:
    """Valid keys where `place` is."""
    entry = _entry(place)
    if entry is None:
        return ["format", *(one.name for one in sections()), "seed"]
    return [name for name in entry.fields() if name != "seed"]  # a run has one, and it is the recipe's


def _meaning(place: list[str]) -> str:
    entry = _entry(place)
    if entry is not None:
        field = entry.fields().get(place[1])
        return field.description if field is not None else ""
    found: Any = SECTIONS.get(place[0]) if place else None
    return found.about if found is not None else "docs/guides/recipes.md"
