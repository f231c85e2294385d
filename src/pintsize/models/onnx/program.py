"""What a network does, step by step: JSON-able, so that a file of ours needs the `.onnx` file no more."""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from ...errors import CorruptFile

_LARGEST = 2**26
"""Bytes of a program unpacked: a hundred thousand steps take less."""


@dataclasses.dataclass(frozen=True)
class Ref:
    """A value that an earlier step gave, or an input."""

    name: str


@dataclasses.dataclass(frozen=True)
class Weight:
    """A parameter or buffer of the network, by its path."""

    path: str


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or output of the file."""

    name: str
    dtype: str
    """As torch calls it: `float32`."""
    shape: tuple[int | str | None, ...] | None
    """A number, the name of a dimension that is left open, or None for one without a name; None: not told."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One call: of a module (`kind` "module": `target` is its path) or of a function (`target` is its name)."""

    kind: str
    target: str
    args: tuple[Any, ...]
    options: Mapping[str, Any]
    outputs: tuple[str, ...]
    """Names of the values that it gives; more than one: it gives a tuple."""
    node: str
    """Of the file that it was made from."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A whole network without its weights."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    steps: tuple[Step, ...]
    modules: Mapping[str, Mapping[str, Any]]
    """Path → `{"class": name, "options": {…}}`, in the order of the file."""
    tensors: Mapping[str, Mapping[str, Any]]
    """Path → `{"shape", "dtype", "learned"}` of what belongs to no module."""
    batch: int | None = None
    """Images in each call, where the file takes just so many and cannot be brought to take more."""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The file's own notes."""
    told: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Where the file came from: producer, opset, whether it was quantized."""

    def packed(self) -> str:
        """As a string for the record of a file."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("inputs", "outputs", "steps"):
            fields[name] = [[getattr(one, f.name) for f in dataclasses.fields(one)] for one in fields[name]]
        document = map_leaves(fields, _encoded)
        return base64.b85encode(zlib.compress(json.dumps(document).encode(), 9)).decode()

    @classmethod
    def unpacked(cls, text: str) -> Program:
        """What `packed` gave.

        Raises:
            CorruptFile: it is damaged.
        """
        try:
            engine = zlib.decompressobj()
            plain = engine.decompress(base64.b85decode(text), _LARGEST)
            if engine.unconsumed_tail:
                raise ValueError("it is longer than any network")
            fields = _decoded(json.loads(plain))
            for name, kind in (("inputs", Port), ("outputs", Port), ("steps", Step)):
                fields[name] = tuple(kind(*one) for one in fields[name])
            return cls(**fields)
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error, RecursionError) as error:
            raise CorruptFile(
                "the program of an imported network",
                f"it is damaged ({error})",
                "restore the file from a copy",
            ) from error


def map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with `change` done to each leaf of its lists, tuples and dicts."""
    if isinstance(value, tuple | list):
        return tuple(map_leaves(one, change) for one in value)
    if isinstance(value, Mapping):
        return {key: map_leaves(one, change) for key, one in value.items()}
    return change(value)


def refs(value: Any) -> list[str]:
    """The names of all values that a step's arguments speak of."""
    found: list[str] = []

    def note(leaf: Any) -> None:
        if isinstance(leaf, Ref):
            found.append(leaf.name)

    map_leaves(value, note)
    return found


def _encoded(leaf: Any) -> Any:
    if isinstance(leaf, Ref):
        return {"value": leaf.name}
    return {"weight": leaf.path} if isinstance(leaf, Weight) else leaf


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_decoded, value))
    if isinstance(value, dict):
        if value.keys() == {"value"}:
            return Ref(str(value["value"]))
        if value.keys() == {"weight"}:
            return Weight(str(value["weight"]))
        return {key: _decoded(one) for key, one in value.items()}
    return value
