"""The user's own networks, named as `package.module:factory`."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from torch import nn

from pintsize.errors import InputError, InputTypeError, OperationError, unknown


def load_factory(name: str, **options: Any) -> nn.Module:
    """The network that the user's own function or class makes: `factory(**options)`.

    The current directory is importable meanwhile, as it is for `python script.py`.

    Args:
        name: `package.module:factory`; the factory may be a class, or dotted as in `module:Net.small`.
        options: handed to the factory as keyword arguments.

    Raises:
        InputError: the module or the attribute does not exist, the module cannot be imported, or the
            factory does not take these options.
        InputTypeError: the attribute is no factory, or it makes something else than a network.
        OperationError: the factory fails.
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise InputError(f"model {name!r}", "it does not name a factory", "write package.module:factory")
    with current_directory_importable():
        factory = _find(_import(module_name, name), attribute, name)
        _check_options(factory, options, name)
        try:
            model = factory(**options)
        except Exception as error:
            raise OperationError(
                f"model factory {name!r}",
                f"it raised {type(error).__name__}: {error}",
                "call it by itself to debug it",
            ) from error
    if not isinstance(model, nn.Module):
        raise InputTypeError(
            f"model factory {name!r}", f"it made a {type(model).__name__}", "let it return a torch.nn.Module"
        )
    return model


@contextlib.contextmanager
def current_directory_importable() -> Iterator[None]:
    """A console script has its own folder first in `sys.path`, not the user's."""
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()  # the file may be younger than the import system's listing of the folder
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the user's module took it out itself
            sys.path.remove(here)


def _import(module_name: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise InputError(
                f"model {name!r}",
                f"there is no module {error.name!r}",
                f"check its spelling, and run from the folder that holds it (now {os.getcwd()})",
            ) from error
        raise _broken(module_name, name, error) from error
    except Exception as error:
        raise _broken(module_name, name, error) from error


def _broken(module_name: str, name: str, error: Exception) -> InputError:
    return InputError(
        f"model {name!r}",
        f"importing the module {module_name!r} raised {type(error).__name__}: {error}",
        f"run python -c 'import {module_name}' to debug it",
    )


def _find(module: ModuleType, attribute: str, name: str) -> Callable[..., Any]:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise unknown(f"attribute of {getattr(found, '__name__', module.__name__)}", part, _public(found))
        found = getattr(found, part)
    if not callable(found) or isinstance(found, nn.Module):
        raise InputTypeError(
            f"model {name!r}",
            f"{attribute!r} is a {type(found).__name__}, not a factory",
            "name a function or class that makes the network",
        )
    return found  # type: ignore[no-any-return]  # callable(), checked above


def _public(owner: object) -> list[str]:
    return [key for key in dir(owner) if not key.startswith("_") and callable(getattr(owner, key))]


def _check_options(factory: Callable[..., Any], options: dict[str, Any], name: str) -> None:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # written in C: it has none to check
        return
    try:
        signature.bind(**options)
    except TypeError as error:
        given = ", ".join(options) or "none"
        raise InputError(
            f"model factory {name!r}",
            f"it does not take these options ({given}): {error}",
            f"its parameters are {signature}",
        ) from error
