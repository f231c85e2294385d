"""Classes made while the program runs: a module's own class, with another way to compute what it computes."""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Callable
from typing import Any

from torch import nn

Subclass = Callable[[type[nn.Module]], type[nn.Module]]
"""Makes the subclass of a module's class."""


def once(make: Subclass) -> Subclass:
    """Remembers the subclass made of each class: `functools.cache`, typed."""
    made: dict[type[nn.Module], type[nn.Module]] = {}

    @functools.wraps(make)
    def remembering(base: type[nn.Module]) -> type[nn.Module]:
        if base not in made:
            made[base] = make(base)
        return made[base]

    return remembering


def reduced_by(make: Subclass, base: type[nn.Module]) -> Callable[..., Any]:
    """`__reduce_ex__` that makes the class anew: it has no importable name of its own."""

    def reduce(self: nn.Module, protocol: Any) -> Any:
        reduced: Any = base.__reduce_ex__(self, protocol)
        plain = base.__reduce_ex__ is object.__reduce_ex__
        made, arguments = (copyreg.__newobj__, (base,)) if plain else reduced[:2]  # type: ignore[attr-defined]
        return (_again, (make, made, arguments), *reduced[2:])

    return reduce


def _again(make: Subclass, made: Callable[..., nn.Module], arguments: tuple[Any, ...]) -> nn.Module:
    module = made(*arguments)
    module.__class__ = make(type(module))
    return module
