"""The record: the list of everything that was done to a model, replayable on the plain model.

A model carries its record as a plain attribute, so that `copy.deepcopy` keeps it and `state_dict`
does not see it. Each kind of step is a frozen dataclass of JSON-able fields registered under its
`kind`; `apply` repeats the change of *structure* on a plain model, the weights come from the file.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from torch import nn

from ..errors import CorruptFile, IllegalOrder, InputError
from ..registry import Registry

_RECORD = "_pintsize_record"
_ORIGIN = "_pintsize_origin"
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Step(ABC):
    """One change of a model: its fields are JSON-able and enough to repeat it."""

    kind: ClassVar[str]
    may_follow: ClassVar[frozenset[str]]
    """Kinds of steps that may stand before this one in a record."""
    reason: ClassVar[str] = "it would undo or misread what that step did"
    """Why this kind may not follow the others: ends the sentence of the error."""

    @abstractmethod
    def apply(self, model: nn.Module) -> None:
        """Repeat this step's change of structure on `model`, in place; values are loaded afterwards."""

    def to_json(self) -> dict[str, Any]:
        """The step as a JSON-able dictionary with its `kind`."""
        return {"kind": self.kind, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Step:
        """The step that `to_json` wrote."""
        return cls(**fields)

    def _repr_html_(self) -> str:
        from html import escape

        from .steps import options_text

        return f"<p><strong>{self.kind}</strong> {escape(options_text(self.to_json()))}</p>"


_S = TypeVar("_S", bound=type[Step])
_KINDS: Registry[type[Step]] = Registry("record step")


def register(cls: _S) -> _S:
    """Class decorator: make a kind of step known to `replay`."""
    _KINDS.add(cls.kind, cls)
    return cls


def record(model: nn.Module) -> tuple[Step, ...]:
    """The steps done to `model`, oldest first."""
    return tuple(model.__dict__.get(_RECORD, ()))


def check_order(model: nn.Module, step: type[Step]) -> None:
    """Raise `IllegalOrder` if a step of this kind may not follow what was done to `model`."""
    for earlier in record(model):
        if earlier.kind not in step.may_follow:
            raise IllegalOrder(
                f"step '{step.kind}' after '{earlier.kind}'",
                step.reason,
                f"do '{step.kind}' on the model as it was before '{earlier.kind}'",
            )


def append(model: nn.Module, step: Step) -> None:
    """Add `step` to the record of `model`; the change itself has been made by the caller."""
    check_order(model, type(step))
    model.__dict__[_RECORD] = [*record(model), step]


def set_origin(model: nn.Module, name: str, options: Mapping[str, Any]) -> None:
    """Note that `model` is `pintsize.models.create(name, **options)`, so that a file alone rebuilds it."""
    model.__dict__[_ORIGIN] = {"name": name, "options": dict(options)}


def origin(model: nn.Module) -> dict[str, Any] | None:
    """What `set_origin` noted, or None for a network that is not from `pintsize.models`."""
    return model.__dict__.get(_ORIGIN)


def inherit(model: nn.Module, source: nn.Module) -> None:
    """Give `model` the record and origin of `source`."""
    for key in (_RECORD, _ORIGIN):
        if key in source.__dict__:
            model.__dict__[key] = source.__dict__[key]


def to_json(model: nn.Module) -> dict[str, Any]:
    """Record and origin of `model`, JSON-able."""
    return {"format": FORMAT, "model": origin(model), "steps": [step.to_json() for step in record(model)]}


def steps_from_json(document: Any, *, source: str) -> list[Step]:
    """The steps of a document that `to_json` wrote; `source` names the file in errors."""
    if not isinstance(document, dict) or not isinstance(document.get("steps"), list):
        raise CorruptFile(source, "its record is not a pintsize record", "write the file again with ps.save")
    if document.get("format") != FORMAT:
        raise InputError(
            source,
            f"its record has format {document.get('format')!r}, this version reads {FORMAT}",
            "load it with the pintsize version that wrote it",
        )
    steps = []
    for number, fields in enumerate(document["steps"]):
        if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
            raise CorruptFile(
                source, f"step {number} of its record has no kind", "write the file again with ps.save"
            )
        kind = fields["kind"]
        step = _KINDS.find(kind)
        try:
            steps.append(step.from_json({k: v for k, v in fields.items() if k != "kind"}))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CorruptFile(
                source,
                f"step {number} ('{kind}') of its record does not parse ({error})",
                "write the file again with ps.save",
            ) from error
    return steps


def replay(model: nn.Module, steps: list[Step], *, source: str) -> None:
    """Apply `steps` to the plain `model` in place and make them its record."""
    if record(model):
        raise InputError(
            f"model for {source}", "it has already been compressed", "pass the plain, unchanged model"
        )
    for number, step in enumerate(steps):
        try:
            step.apply(model)
        except (AttributeError, KeyError, IndexError, RuntimeError, ValueError, TypeError) as error:
            raise InputError(
                source,
                f"step {number} ('{step.kind}') of its record does not fit the model ({error})",
                "pass model= the same plain network that was compressed",
            ) from error
        append(model, step)
