"""YAML from anywhere: no tag is obeyed, and a small file cannot become a large document."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import InputError

_LARGEST = 2**20
"""Bytes of a file."""
_MOST_NODES = 100_000
"""Values in it, each counted as often as aliases repeat it."""


def read_yaml(path: str | os.PathLike[str], *, kind: str = "recipe") -> Any:
    """What a YAML file holds.

    Args:
        path: of the file.
        kind: what errors call it.

    Raises:
        InputError: it cannot be read, is no YAML, or is too large.
    """
    import yaml

    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise InputError(f"{kind} {path}", "it is larger than 1 MiB", "check that it is the right file")
        loader = yaml.SafeLoader(content.decode("utf-8"))
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _size(node, {}) > _MOST_NODES:
                raise InputError(
                    f"{kind} {path}", f"it holds more than {_MOST_NODES} values", "use fewer aliases"
                )
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except OSError as error:
        raise InputError(
            f"{kind} {path}", f"it cannot be read ({error.strerror})", "check the path"
        ) from error
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{kind} {path}", f"it is no YAML ({reason})", "mend it at that place") from error


def _size(node: Any, known: dict[int, int]) -> int:
    """Values in a node with its aliases written out; one that holds itself is endless."""
    if id(node) not in known:
        known[id(node)] = _MOST_NODES + 1  # until it is counted: whoever meets it meanwhile is inside it
        inner = node.value if isinstance(node.value, list) else []
        parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]
