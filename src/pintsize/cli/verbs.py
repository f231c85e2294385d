"""What makes a function a verb: shared options, those of sections of the recipe, and what it prints.

A verb is a few lines: what to load, what to call, what to print. It may take `inputs`, which holds the options that say
which network and images are meant, `given`, which holds those of the recipe's sections, and `**options`: those of
`compress`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from ..errors import InputError, PintsizeError
from ..recipe.complaints import checked
from ..recipe.options import OPTIONS, Option, options_of
from ..recipe.section import SECTIONS, switches_off
from ..registry import Registry
from .inputs import Inputs
from .output import emit

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@dataclass(frozen=True)
class Verb:
    """A function of the command line."""

    run: Callable[..., None]
    place: int
    """Verbs are listed by it."""
    bare: bool
    """Whether it does something without any option."""


VERBS: Registry[Verb] = Registry("verb")
"""By the name of their functions."""


@dataclass(frozen=True)
class Told:
    """What a verb prints."""

    values: Mapping[str, Any] | list[Any]
    """For `--json`: what JSON can hold, or dataclasses, paths and mappings of such."""
    shown: tuple[object, ...]
    """For people, one after the other."""
    failed: PintsizeError | None = None
    """Raised once all is printed."""


def told(values: Mapping[str, Any] | list[Any], *shown: object, failed: PintsizeError | None = None) -> Told:
    """`Told`, with what is shown one after the other."""
    return Told(values, shown, failed)


class Given:
    """The options of sections that stood on the command line, by section and field."""

    def __init__(self, values: Mapping[str, Mapping[str, Any]]) -> None:
        self._values = values

    def any(self, section: str) -> bool:
        """Whether an option of the section was given."""
        return bool(self._values.get(section))

    def names(self, section: str) -> list[str]:
        """Its fields that were given."""
        return list(self._values.get(section, ()))

    def section(self, name: str) -> Any:
        """The section, checked, defaults filled in.

        Raises:
            InputError: a value out of range.
        """
        return checked(name, self._values.get(name, {}), source="options")

    def values(self, name: str) -> dict[str, Any]:
        """The same as keywords of a call."""
        found: dict[str, Any] = self.section(name).model_dump()
        return found


def verb(
    *, place: int, data: Literal["needed", "optional", "none"] = "none", section: str | None = None,
    more: Iterable[str] = (), called: Mapping[str, tuple[str, ...]] | None = None, bare: bool = False,
) -> Callable[[Callable[..., Told | None]], Callable[..., None]]:  # fmt: skip
    """Decorator: make a function a verb of its name.

    Args:
        place: among the verbs.
        data: whether the options that say which images are meant have to be given, where there are any.
        section: of the recipe, whose fields are options of the verb under their own names.
        more: sections whose fields are options under the names that they have for `compress`.
        called: field of `section` → its option's names, where it has others.
        bare: it does something without any option.
    """

    def decorate(function: Callable[..., Told | None]) -> Callable[..., None]:
        options = _section_parameters(section, more, called or {})
        own = inspect.signature(function, eval_str=True).parameters
        shared = Inputs.parameters(data) if "inputs" in own else []
        whole = [] if "options" not in own else [_parameter(option) for option in OPTIONS.values()]

        @functools.wraps(function)
        def run(*, as_json: bool, **values: Any) -> None:
            passed = {name: values[name] for name in own if name in values}
            if "given" in own:
                passed["given"] = _given(options, values)
            if shared:
                passed["inputs"] = Inputs(**{one.name: values[one.name] for one in shared})
            if "as_json" in own:
                passed["as_json"] = as_json
            passed |= {one.name: values[one.name] for one in whole if values[one.name] not in (None, [])}
            if (found := function(**passed)) is not None:
                emit(found.values, *found.shown, as_json=as_json)
                if found.failed is not None:
                    raise found.failed

        mine = [one for name, one in own.items() if name not in ("inputs", "given", "options", "as_json")]
        added = [*whole, *(parameter for _, _, parameter in options)]
        last = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)
        shown_as(run, [*shared[:2], *mine, *shared[2:], *added, last])
        VERBS.add(function.__name__, Verb(run, place, bare))
        return run

    return decorate


def shown_as(run: Callable[..., None], parameters: list[inspect.Parameter]) -> None:
    """Let typer see `parameters` instead of the wrapped function's."""
    ordered = sorted(parameters, key=lambda one: one.kind)
    run.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in ordered}
    del run.__wrapped__  # type: ignore[attr-defined]  # inspect.signature would look through to the function


_Parameters = list[tuple[str, str, inspect.Parameter]]
"""Section, field, parameter."""


def _section_parameters(
    section: str | None, more: Iterable[str], called: Mapping[str, tuple[str, ...]]
) -> _Parameters:
    found: _Parameters = []
    for name in [*([] if section is None else [section]), *more]:
        for option in options_of(SECTIONS[name], flat=name != section):
            field = option.key.partition(".")[2]
            flags = called.get(field, ()) if name == section else ()
            parameter = _parameter(option, flags, f"{name}__{field}")
            found.append((name, field, parameter))
    return found


def _given(options: _Parameters, values: Mapping[str, Any]) -> Given:
    found: dict[str, dict[str, Any]] = {}
    for section, field, parameter in options:
        if (value := values[parameter.name]) not in (None, []):
            found.setdefault(section, {})[field] = value
    return Given(found)


def _parameter(option: Option, flags: tuple[str, ...] = (), name: str | None = None) -> inspect.Parameter:
    # what may be null is given as text, so that `none` can be said
    plain = str if switches_off(option.type, option.default) else _plain_type(option.type)
    names = flags or (f"--{option.name.replace('_', '-')}",)
    if plain is bool:
        names = tuple(f"{one}/--no-{one.removeprefix('--')}" for one in names)
    about = typer.Option(*names, help=_help(option), rich_help_panel=option.title, show_default=False)
    kind: Any = Annotated[plain | None, about]
    return inspect.Parameter(
        name or option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind
    )


def _help(option: Option) -> str:
    """The field's description with its choices and its default."""
    text, default = " ".join(option.description.split()).replace("`", "").rstrip("."), option.default
    notes = [" | ".join(map(str, get_args(option.type)))] if get_origin(option.type) is Literal else []
    if isinstance(default, bool):
        notes.append(f"default {'on' if default else 'off'}")
    elif default is not None and default != () and isinstance(default, str | int | float | tuple):
        notes.append(f"default {default}")
    return f"{text} ({'; '.join(notes)})." if notes else f"{text}."


def _plain_type(annotation: Any) -> Any:
    """The type that typer parses: `float | None` → float, tuples → a repeatable option, what has a text form → text."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    kinds = {get_origin(part) or part for part in (annotation, *parts)}
    if kinds & {Literal, dict}:
        return str
    for part in (annotation, *parts):
        if get_origin(part) is tuple:
            return list[get_args(part)[0]]  # type: ignore[misc]
    return parts[0] if parts else annotation


def refuse(options: str, cause: str, remedy: str, *, when: bool) -> None:
    """Raise for options that do not go together.

    Raises:
        InputError: if `when`.
    """
    if when:
        raise InputError(options, cause, remedy)
