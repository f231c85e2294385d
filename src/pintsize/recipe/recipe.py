"""The recipe: everything that decides a run, in one versioned YAML file.

A key that is not known is refused with the nearest one that is. `options.py` gives each field the name that
`compress` and the command line use for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, ValidationError, create_model, field_serializer, field_validator, model_validator

from ..errors import InputError, InputTypeError
from .attention import AttentionOptions
from .complaints import as_input_error
from .section import Section, sections
from .yaml import read_yaml

FORMAT: Final = 1
_MODELS: dict[tuple[str, ...], type[Recipe]] = {}


class Recipe(Section):
    """All that decides a run besides the images and the starting weights: one field for each section."""

    format: Literal[1] = FORMAT
    """Version of this layout."""
    seed: int = Field(default=0, ge=0)
    """Decides the validation split, starting weights, order and augmentation."""

    if TYPE_CHECKING:  # the sections are fields of the class that `recipe_class` makes

        def __getattr__(self, name: str) -> Any: ...

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe from a YAML file.

        Raises:
            InputError: there is no such file, it is no YAML, a key is unknown or a value out of range.
        """
        return cls.parse(read_yaml(path), source=str(path))

    @classmethod
    def parse(cls, document: Any, *, source: str = "recipe") -> Recipe:
        """The recipe of a plain dictionary; `source` names it in errors."""
        model = recipe_class()
        if not isinstance(document, dict):
            raise InputError(
                source, "it is not a mapping of sections", f"write sections: {', '.join(model.model_fields)}"
            )
        if document.get("format", FORMAT) != FORMAT:
            raise InputError(
                f"{source}, format {document['format']!r}",
                f"this version of pintsize reads format {FORMAT}",
                "use the version that the recipe was written for, or bring its keys up to date",
            )
        try:
            return model.model_validate(document)
        except ValidationError as error:
            raise as_input_error(error, source) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the recipe, every default spelt out, as YAML."""
        import yaml

        from ..storage.atomic import write_text

        write_text(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True))

    def ways(self) -> list[str]:
        """The sections that prune."""
        return [entry.name for entry in sections() if entry.way and getattr(self, entry.name) is not None]

    @field_validator("model", "data", "task", mode="before", check_fields=False)
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        """`model: resnet18` is short for `model: {name: resnet18}`."""
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _one_seed(cls, document: Any) -> Any:
        """A run has one seed: another one in `attention` is refused, the same one again is left out."""
        attention = document.get("attention") if isinstance(document, Mapping) else None
        if isinstance(attention, AttentionOptions):
            given = asdict(attention)
            attention = given if given["seed"] != AttentionOptions.seed else None
        if not isinstance(attention, Mapping) or "seed" not in attention:
            return document
        own, seed = attention["seed"], document.get("seed", cls.model_fields["seed"].default)
        if own != seed:
            raise InputError(
                f"attention.seed={own!r}",
                f"a run has one seed, and the recipe's is {seed!r}",
                f"leave it out, or set the recipe's seed: seed: {own!r} beside attention",
            )
        rest = {key: value for key, value in attention.items() if key != "seed"}
        return {**document, "attention": rest}

    @field_serializer("attention", mode="wrap", check_fields=False)
    def _without_seed(self, attention: AttentionOptions | None, handler: Any) -> Any:
        written = handler(attention)
        if isinstance(written, dict):
            del written["seed"]  # the recipe's holds
        return written

    @model_validator(mode="after")
    def _sections_go_together(self) -> Recipe:
        ways = self.ways()
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} are two ways to prune: write one of them")
        for entry in sections():
            chosen = getattr(self, entry.name)
            if chosen is not None:
                chosen.check_with(self)
        return self


def recipe_class() -> type[Recipe]:
    """`Recipe` with a field for each section that is known by now."""
    entries = sections()
    names = tuple(entry.name for entry in entries)
    if names not in _MODELS:
        fields: dict[str, Any] = {}
        for entry in entries:
            kind: Any = entry.options if entry.required else entry.options | None
            fields[entry.name] = (
                kind,
                Field(default_factory=entry.options if entry.default else lambda: None),
            )
        _MODELS[names] = create_model("Recipe", __base__=Recipe, **fields)
    return _MODELS[names]


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` written over it, key by key: `{"prune.ratio": 0.5}` reaches into a section."""
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in base.items()}
    for dotted, value in changes.items():
        section, dot, key = dotted.partition(".")
        if not dot:
            merged[section] = value
            continue
        inner = merged.get(section)
        if isinstance(inner, str) and section in {"model", "data", "task"}:
            inner = {"name": inner}
        if inner is not None and not isinstance(inner, dict):
            raise InputTypeError(
                f"recipe key {section}", f"it is {inner!r}, not a section", "write a mapping"
            )
        merged[section] = {**(inner or {}), key: value}
    return merged
