"""A section of a recipe: the options of one technique, declared once.

What is declared here under one field, its type, bounds, default and doc line, is the recipe's key, the option of
`compress` and of the command line, and the row in the documentation. A new technique is a new module in this package
with one class under `@section`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from ..registry import Registry
from .bits import NONE


class Chosen(Protocol):
    """A recipe, as its sections see each other: None for one that is left out."""

    def __getattr__(self, section: str) -> Any: ...

    def ways(self) -> list[str]:
        """Names of the sections that prune."""


class Section(BaseModel):
    """Unknown keys are refused, values and defaults checked; a field's docstring is its description."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        validate_assignment=True,
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
    )

    def check_with(self, recipe: Chosen) -> None:
        """Raise ValueError or InputError for other sections that this one cannot stand beside."""

    @field_validator("*", mode="before")
    @classmethod
    def _none_in_words(cls, value: Any, info: ValidationInfo) -> Any:
        """Where null switches off what is on by default, a command line writes `none` or `null`."""
        field = cls.model_fields[str(info.field_name)]
        said = isinstance(value, str) and value in NONE
        return None if said and switches_off(field.annotation, field.default) else value


def switches_off(annotation: Any, default: Any) -> bool:
    """Whether null is a value of a field apart from its default."""
    return default is not None and type(None) in get_args(annotation)


@dataclass(frozen=True)
class Field:
    """An option of a section."""

    name: str
    annotation: Any
    default: Any
    """`...` for one that has to be given."""
    description: str


@dataclass(frozen=True)
class Entry:
    """A section and its place in a recipe."""

    name: str
    options: type
    """Its class: a `Section`, or a dataclass whose fields have a `help` in their metadata."""
    title: str
    """Of its options in `--help`."""
    about: str
    """What is there for a recipe that leaves it out, or writes null."""
    place: int
    """Sections, and the stages they ask for, follow each other by it: 10 inputs, 20 training, 30 ways to prune,
    40 recovery, 50 fewer values, 60 quantization, 70 training of the quantized, 80 the file."""
    default: bool
    """Whether a recipe that leaves it out has it all the same."""
    required: bool
    """Whether null is refused."""
    way: bool
    """Whether it is one of the ways to prune, of which a recipe takes one."""
    flat: Mapping[str, str]
    """Field → name among the options of `compress`; fields that are not here are no options."""

    def fields(self) -> dict[str, Field]:
        """By name, in order."""
        return fields_of(self.options)


SECTIONS: Registry[Entry] = Registry("recipe section")
"""By the name of their key."""

_T = TypeVar("_T", bound=type)


def section(
    name: str,
    *,
    title: str,
    about: str,
    place: int,
    default: bool = False,
    required: bool = False,
    way: bool = False,
    own: tuple[str, ...] | None = None,
    renamed: Mapping[str, str | None] | None = None,
) -> Callable[[_T], _T]:
    """Class decorator: make a section known.

    Args:
        name: of its key in a recipe.
        title: of its options in `--help`.
        about: what its absence means, for the documentation.
        place: see `Entry`.
        default: a recipe that leaves it out has it all the same.
        required: null is refused.
        way: it is one of the ways to prune.
        own: fields whose options have their own names; the others' carry the section's before theirs. By default
            all have their own.
        renamed: fields whose options are called otherwise; None for those that are no options.
    """

    def register(cls: _T) -> _T:
        flat = {
            field: field if own is None or field in own else f"{name}_{field}" for field in fields_of(cls)
        }
        flat |= renamed or {}  # type: ignore[arg-type]
        known = {field: option for field, option in flat.items() if option is not None}
        SECTIONS.add(name, Entry(name, cls, title, about, place, default, required, way, known))
        return cls

    return register


def sections() -> list[Entry]:
    """All sections in order."""
    return sorted(SECTIONS.values(), key=lambda entry: entry.place)


def fields_of(options: type) -> dict[str, Field]:
    """The fields of a section's class, by name."""
    if issubclass(options, BaseModel):
        return {
            name: Field(
                name,
                info.annotation,
                ... if info.is_required() else info.get_default(call_default_factory=True),
                info.description or "",
            )
            for name, info in options.model_fields.items()
        }
    found, types = {}, get_type_hints(options)
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        found[field.name] = Field(field.name, types[field.name], default, field.metadata.get("help", ""))
    return found


def values_of(options: Any) -> dict[str, Any]:
    """A section's fields and values, JSON-able where they are written to a file."""
    if isinstance(options, BaseModel):
        return options.model_dump(mode="json")
    return dataclasses.asdict(options)


def table_of(name: str) -> str:
    """The options of a section as a table in Markdown: option, default, meaning."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for field in SECTIONS.find(name).fields().values():
        default = "needed" if field.default is ... else json.dumps(field.default, default=list).strip('"')
        shown = "none" if field.default is None else default if field.default is ... else f"`{default}`"
        meaning = " ".join(field.description.split()).rstrip(".")
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        listed = f" ({', '.join(f'`{choice}`' for choice in choices)})" if choices else ""
        rows.append(f"| `{field.name}` | {shown} | {meaning}{listed} |")
    return "\n".join(rows)
