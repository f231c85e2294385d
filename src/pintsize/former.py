"""Packages under the names that they had before 0.1: `from pintsize.prune import …` goes on to work."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any


class _Former(types.ModuleType):
    """Stands in `sys.modules` alone: an attribute of `pintsize` would hide the function of that name."""

    def __init__(self, name: str, now: str) -> None:
        super().__init__(name, f"Now `{now}`.")
        self.__dict__["_now"] = now
        self.__path__: list[str] = []  # a package, so that asking for a module in it says what is missing

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what inspection looks for in every module
            raise AttributeError(name)
        return getattr(importlib.import_module(self._now), name)


for _before, _now in {"pintsize.prune": "pintsize.pruning", "pintsize.train": "pintsize.training"}.items():
    sys.modules[_before] = _Former(_before, _now)
