"""The record: the list of everything that was done to a model, replayable on the plain model.

A model carries its record as a plain attribute, so that `copy.deepcopy` keeps it and `state_dict`
does not see it. Each kind of step is a frozen dataclass of JSON-able fields registered under its
`kind`; `apply` repeats the change of *structure* on a plain model, the weights come from the file.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from torch import nn

from ..errors import CorruptFile, IllegalOrder, InputError
from ..registry import Registry
from .preprocessing import NOTE
from .wrapped import plain

_RECORD = "_pintsize_record"
_ORIGIN = "_pintsize_origin"
_PART = "_pintsize_part"
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


@register
@dataclasses.dataclass(frozen=True)
class Within(Step):
    """What was done to a part of the network by itself, e.g. to a detector's backbone."""

    kind: ClassVar[str] = "within"
    may_follow: ClassVar[frozenset[str]] = frozenset()  # the step inside says it

    path: str
    """Of the part."""
    step: Step

    def apply(self, model: nn.Module) -> None:
        """Repeat the step on the part."""
        self.step.apply(model.get_submodule(self.path))

    def to_json(self) -> dict[str, Any]:
        """The step inside is a dictionary with its own kind."""
        return {"kind": self.kind, "path": self.path, "step": self.step.to_json()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Step:
        """The step that `to_json` wrote."""
        return cls(str(fields["path"]), _parsed(_KINDS.find(fields["step"]["kind"]), fields["step"]))


def record(model: nn.Module) -> tuple[Step, ...]:
    """The steps done to `model` and to parts of it, oldest first as far as they touch."""
    model = plain(model)
    steps: list[Step] = list(model.__dict__.get(_RECORD, ()))
    known = [step for step in steps if isinstance(step, Within)]
    for path, module in model.named_modules():
        for step in module.__dict__.get(_RECORD, ()) if path else ():
            found = (
                Within(f"{path}.{step.path}", step.step) if isinstance(step, Within) else Within(path, step)
            )
            if found in known:
                known.remove(found)
            else:
                steps.append(found)
    return tuple(steps)


def check_order(model: nn.Module, step: type[Step]) -> None:
    """Raise `IllegalOrder` if a step of this kind may not follow what was done to `model`."""
    for earlier in record(model):
        kind = earlier.step.kind if isinstance(earlier, Within) else earlier.kind
        if kind not in step.may_follow:
            raise IllegalOrder(
                f"step '{step.kind}' after '{kind}'",
                step.reason,
                f"do '{step.kind}' on the model as it was before '{kind}'",
            )


def append(model: nn.Module, step: Step) -> None:
    """Add `step` to the record of `model`; the change itself has been made by the caller."""
    model = plain(model)
    if isinstance(step, Within):
        append(model.get_submodule(step.path), step.step)
        return
    check_order(model, type(step))
    model.__dict__[_RECORD] = [*record(model), step]
    touched = _names(step)
    for path, module in model.named_modules():
        if path and path in touched:
            module.__dict__[_PART] = step.kind


def check_whole(model: nn.Module, what: str) -> None:
    """Raise `InputError` if `model` was changed as a part of a larger network, so that its own record misses steps."""
    kind = plain(model).__dict__.get(_PART)
    if kind is not None:
        raise InputError(
            what,
            f"step '{kind}' was done to the whole network that this {type(plain(model)).__name__} is a part of, "
            "whose record alone tells of it",
            "save the whole network",
        )
    told: set[str] = set()
    for path, module in plain(model).named_modules():
        if module.__dict__.get(_RECORD):
            told.update(_touched(module, path))
        parts = path.split(".")  # a later step may have put it into a module that stands where it stood
        known = any(".".join(parts[: k + 1]) in told for k in range(len(parts)))
        if path and not known and (kind := module.__dict__.get(_PART)) is not None:
            raise InputError(
                f"{what}, part '{path}'",
                f"step '{kind}' was done to it within another network, which is no part of this "
                f"{type(plain(model)).__name__}, and whose record alone tells of it",
                "make that network a part of this one, as in self.core = core, and call it in forward",
            )


def _touched(model: nn.Module, prefix: str) -> Iterator[str]:
    """Paths of the modules that the record of `model`, which is at `prefix`, tells of."""
    start = f"{prefix}." if prefix else ""
    for step in model.__dict__[_RECORD]:
        yield from (start + name for name in _names(step))


def _names(step: Step) -> set[str]:
    """The dotted names in a step, and what they begin with."""
    if isinstance(step, Within):
        return {step.path, *(f"{step.path}.{name}" for name in _names(step.step))}
    names: set[str] = set()
    for text in _texts(vars(step)):
        parts = text.split(".")
        names.update(".".join(parts[: k + 1]) for k in range(len(parts)))
    return names


def _texts(document: Any) -> Iterator[str]:
    """All strings in a JSON document, the keys of its objects among them; long lists of numbers are not read."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, Mapping):
        yield from (key for key in document if isinstance(key, str))
        for value in document.values():
            yield from _texts(value)
    elif isinstance(document, list | tuple) and document and not isinstance(document[0], int):
        for value in document:
            yield from _texts(value)


def set_origin(model: nn.Module, name: str, options: Mapping[str, Any]) -> None:
    """Note that `model` is `pintsize.models.create(name, **options)`, so that a file alone rebuilds it."""
    plain(model).__dict__[_ORIGIN] = {"name": name, "options": dict(options)}


def origin(model: nn.Module) -> dict[str, Any] | None:
    """What `set_origin` noted, or None for a network that is not from `pintsize.models`."""
    return plain(model).__dict__.get(_ORIGIN)


def inherit(model: nn.Module, source: nn.Module) -> None:
    """Give `model` the record of `source`, and what is noted of its origin and its images."""
    model, source = plain(model), plain(source)
    if steps := record(source):
        model.__dict__[_RECORD] = list(steps)
    for key in (_ORIGIN, _PART, NOTE):
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
            steps.append(_parsed(step, fields))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CorruptFile(
                source,
                f"step {number} ('{kind}') of its record does not parse ({error})",
                "write the file again with ps.save",
            ) from error
    return steps


def _parsed(step: type[Step], fields: Mapping[str, Any]) -> Step:
    return step.from_json({k: v for k, v in fields.items() if k != "kind"})


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
