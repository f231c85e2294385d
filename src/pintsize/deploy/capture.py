"""torch.export without its pages: what it prints and says of a failure goes to the log, one line to the user."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..errors import OperationError, PintsizeError

_log = logging.getLogger(__name__)
_LONGEST = 300
"""Characters."""


def captured(model: nn.Module, args: tuple[Any, ...], **options: Any) -> torch.export.ExportedProgram:
    """`torch.export.export`; the graph that it prints before it fails goes to the log."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return torch.export.export(model, args, **options)
    finally:
        if said.getvalue().strip():
            _log.debug("torch.export of %s: %s", type(model).__name__, said.getvalue().strip())


@contextlib.contextmanager
def told_in_one_line(what: str, cause: str, remedy: str) -> Iterator[None]:
    """Errors of an exporter as one of ours, their text in the log.

    Args:
        what: the object.
        cause: what is wrong; the innermost error's first line is put behind it.
        remedy: what to do.

    Raises:
        OperationError: within it anything but our own errors was raised.
    """
    try:
        yield
    except PintsizeError:
        raise
    except Exception as error:
        _log.debug("%s: %s", what, cause, exc_info=True)
        raise OperationError(what, f"{cause} ({first_line(error)})", remedy) from None


def first_line(error: BaseException) -> str:
    """Type and first line of the innermost error: exporters wrap it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = (str(error).strip() or "no message").splitlines()[0].rstrip(":")
    return f"{type(error).__name__}: {line[:_LONGEST]}{'…' if len(line) > _LONGEST else ''}"
