"""Functions that a user wrote for a task: how they are called, and what tells one from another."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..errors import OperationError, PintsizeError
from ..storage.digests import tensor_digest

_DEPTH = 3
"""Of objects in objects: a task, its metric, and that of torchmetrics in it."""
_PLAIN = (str, int, float, bool, type(None))


class FunctionFailed(OperationError):
    """A function of the user's raised; what, is its cause."""


def called(function: Callable[..., Any], what: str, *given: Any) -> Any:
    """What the function gives.

    Raises:
        FunctionFailed: it raises.
    """
    try:
        return function(*given)
    except PintsizeError:
        raise
    except Exception as error:
        remedy = "mend it: it must run by itself on these"
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            remedy = "lower batch_size or the image size"
        raise FunctionFailed(
            what, f"it fails ({in_words(error)}) on {', '.join(map(described, given))}", remedy
        ) from error


def in_words(error: BaseException) -> str:
    """The kind of an error and its first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def described(values: Any) -> str:
    """Targets or outputs in a few words."""
    if isinstance(values, Tensor):
        return f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"
    if isinstance(values, dict):
        return "{" + ", ".join(f"{key}: {described(value)}" for key, value in list(values.items())[:6]) + "}"
    if isinstance(values, list | tuple) and values:
        return f"{type(values).__name__} of {len(values)} × {described(values[0])}"
    return type(values).__name__


def identity(value: Any) -> str:
    """What tells a task, a metric or a function from another that trains or judges otherwise, in words.

    Of an object its type and its settings; of a function its name and a digest of its code.
    """
    return _told(value, ())


def _told(value: Any, above: tuple[int, ...]) -> str:
    if isinstance(value, _PLAIN):
        return repr(value)
    if id(value) in above:  # a metric knows its task
        return "…"
    above = (*above, id(value))
    if isinstance(value, Tensor):
        return f"{described(value)} #{tensor_digest({'': value})[:8]}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_told(each, above)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        return "[" + ", ".join(_told(each, above) for each in value) + "]"
    if isinstance(value, functools.partial):
        return f"{_told(value.func, above)} of {_told([value.args, value.keywords], above)}"
    if inspect.ismethod(value):
        return f"{value.__name__} of {_told(value.__self__, above)}"
    if inspect.isfunction(value):
        return _function(value, above)
    if isinstance(value, type) or inspect.isbuiltin(value):
        return value.__qualname__
    if len(above) > _DEPTH or not hasattr(value, "__dict__"):
        return type(value).__qualname__
    settings = [
        f"{key.lstrip('_')}={_told(each, above)}"
        for key, each in sorted(vars(value).items())
        if each is not None and key != "name" and _is_setting(each)
    ]
    return f"{type(value).__qualname__}({', '.join(settings)})"


def _is_setting(value: Any) -> bool:
    """Not a network's parameters, nor what a metric counts in."""
    return not any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))


def _function(value: Any, above: tuple[int, ...]) -> str:
    try:
        code = inspect.getsource(value)
    except (OSError, TypeError):  # typed into an interpreter
        code = repr(value.__code__.co_code)
    compiled = value.__code__  # two lambdas of one line have the same source
    code += repr((compiled.co_names, [one for one in compiled.co_consts if isinstance(one, _PLAIN)]))
    held = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
    told = [_told(each, above) for each in (*held, *(value.__defaults__ or ()))]
    digest = hashlib.sha256("\n".join([code, *told]).encode()).hexdigest()[:8]
    return f"{value.__qualname__.replace('<locals>.', '')} #{digest}"


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
