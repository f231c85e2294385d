"""Which task is meant: by name, with options, of a module, or by what the data is."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from ..errors import InputError, InputTypeError, PintsizeError
from ..models.factory import current_directory_importable
from .imitation import Imitation, imitate
from .own import in_words
from .task import TASKS, Task


def task_of(given: Any, data: Any = None) -> Task:
    """The task that a call means.

    Args:
        given: a task, a name of `pintsize.tasks.list()`, a mapping `{name: …, option: …}`, `package.module:task`, or
            None for that of the data: its `task`, else classification.
        data: splits, or one of them.

    Raises:
        InputError: there is no such task or option.
        InputTypeError: it is no task.
    """
    if given is None:
        given = getattr(data, "task", None) or "classification"
    if isinstance(given, Task):
        return given
    if isinstance(given, Mapping):
        options = {str(key): value for key, value in given.items()}
        return _made(options.pop("name", None), options)
    if isinstance(given, str):
        return _made(given, {})
    raise InputTypeError(
        f"task of type {type(given).__name__}",
        "it is no task",
        f"pass a name ({', '.join(names())}) or ps.Task(loss=…, metric=…)",
    )


def with_task(given: Any, data: Any, dense: nn.Module | None = None) -> tuple[Task, Any]:
    """The task that a call means, and the data for it: what these give out, such as the border of masks, follows it.

    Args:
        given: see `task_of`.
        data: splits, one of them, or batches.
        dense: the network that is the teacher, where the task is to imitate one.
    """
    task = task_of(given, data)
    if isinstance(task, Imitation) and dense is not None and hasattr(getattr(data, "val", data), "batches"):
        data = imitate(data, dense, task)
        return getattr(data, "val", data).task, data
    return task, data.for_task(task) if hasattr(data, "for_task") else data


def kept_under(task: Task) -> dict[str, str]:
    """What checkpoints, scans and stages note of a task, to know another: nothing of the plain classification."""
    return {} if task.identity == TASKS["classification"]().identity else {"task": task.identity}


def names() -> list[str]:
    """The tasks that have a name."""
    return sorted(TASKS)


def _made(name: Any, options: dict[str, Any]) -> Task:
    if not isinstance(name, str):
        raise InputError(
            f"task without a name: {options}", "it is not clear which", "write name: segmentation"
        )
    found = _imported(name) if ":" in name and name not in TASKS else TASKS.find(name)
    if isinstance(found, Task):
        if options:
            raise InputError(
                f"task {name!r} with {', '.join(options)}",
                "it is made already",
                "name the function that makes it",
            )
        return found
    if not callable(found):
        raise InputTypeError(
            f"task {name!r}", f"it is {type(found).__name__}", "name a ps.Task, or what makes one"
        )
    known = inspect.signature(found).parameters
    if any(one.kind is one.VAR_KEYWORD for one in known.values()):
        known = dict.fromkeys(options)  # type: ignore[assignment]
    for option in options:
        if option not in known:
            raise InputError(
                f"task {name!r} with {option}", "it has no such option",
                f"choose from {', '.join(known)}" if known else "leave it out",
            )  # fmt: skip
    try:
        task = found(**{key: _option(key, value) for key, value in options.items()})
    except Exception as error:
        if isinstance(error, PintsizeError) and not isinstance(error, TypeError):
            raise
        raise InputError(
            f"task {name!r} with {', '.join(options) or 'no options'}",
            f"it cannot be made ({error if isinstance(error, TypeError) else in_words(error)})",
            "see its documentation" if name in TASKS else f"mend {name}",
        ) from error
    if not isinstance(task, Task):
        raise InputTypeError(
            f"task {name!r}", f"it is {type(task).__name__}", "name a ps.Task, or what makes one"
        )
    return task


def _option(key: str, value: Any) -> Any:
    """Options that are functions may be named `package.module:function`."""
    if (
        key in ("loss", "decode", "step", "metric", "distill", "agreement")
        and isinstance(value, str)
        and ":" in value
    ):
        return _imported(value)
    return value


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise InputError(
            f"task {name!r}", "it is neither a name nor a place",
            "name it: segmentation, or package.module:task; its options are for a recipe, task: {name: …, option: …}",
        )  # fmt: skip
    try:
        with current_directory_importable():
            found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except PintsizeError:
        raise
    except Exception as error:
        raise InputError(
            f"{name!r}",
            f"it cannot be imported ({type(error).__name__}: {error})",
            "write package.module:name",
        ) from error
    return found
