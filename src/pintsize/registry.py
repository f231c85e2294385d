"""What a lower floor finds by name and a higher one supplies: registries, and the one table of where their entries are.

Imports go down. Where a lower floor has to reach something above it (a step of a record, a file format, a stage of a run)
it asks a registry. The modules that fill one are imported when it is first asked.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from .errors import unknown

PROVIDERS: dict[str, tuple[str, ...]] = {
    "record step": (".pruning", ".quant"),
    "file format": (".deploy.pint.format",),
    "network": (".models",),
    "task": (".tasks.*",),
    "display": (".report",),
    "layer timer": (".deploy.layer_latency",),
    "recipe section": (".recipe.*",),
    "stage": (".run.stages.*", ".search.stage"),
    "verb": (".cli.*",),
}
"""What a registry holds → the modules that fill it; `.*` stands for every module of a package."""

T = TypeVar("T")
F = TypeVar("F")


class Registry(Mapping[str, T]):
    """Names and what they stand for.

    Args:
        what: one entry in words, for errors; its modules are in `PROVIDERS`.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._entries: dict[str, T] = {}
        self._waiting = list(PROVIDERS.get(what, ()))

    def add(self, name: str, entry: T) -> T:
        """Make `entry` known under `name`; a later one of the same name takes its place."""
        self._entries[name] = entry
        return entry

    def remove(self, name: str) -> None:
        """Forget an entry."""
        del self._entries[name]

    def register(self, name: str) -> Callable[[F], F]:
        """Decorator: `add` what it stands on, which keeps its type."""

        def add(entry: F) -> F:
            self.add(name, entry)  # type: ignore[arg-type]
            return entry

        return add

    def find(self, name: str) -> T:
        """The entry of this name.

        Raises:
            InputError: there is none; the nearest names are in it.
        """
        if name not in self:
            raise unknown(self.what, name, self)
        return self[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name)  # a file may say anything

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:  # what is there already needs no further module
            self._fill()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._fill()
        return iter(self._entries)

    def __len__(self) -> int:
        self._fill()
        return len(self._entries)

    def _fill(self) -> None:
        while self._waiting:
            for module in _modules(self._waiting.pop(0)):
                importlib.import_module(module, __package__)


def _modules(name: str) -> list[str]:
    if not name.endswith(".*"):
        return [name]
    package = importlib.import_module(name.removesuffix(".*"), __package__)
    return [f"{package.__name__}.{found.name}" for found in pkgutil.iter_modules(package.__path__)]


DISPLAYS: Registry[Callable[..., Any]] = Registry("display")
"""How a network is shown in a notebook."""
