"""The log of a run: one line an event, `key=value` pairs, on standard error and in the run's folder.

    time=2026-11-21T07:40:01.123Z elapsed=12.3 level=INFO logger=pintsize msg="train: done in 3.1 s" stage=train event=done

Text is quoted as in JSON where it holds more than a word, so a line is always one event. `elapsed` is
monotonic: a clock that is set meanwhile changes `time` alone. Passwords and tokens do not get in.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import OperationError

_PLAIN = re.compile(r"[\w.,:/+%-]+")
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY", re.IGNORECASE)
_IN_URL = re.compile(r"(?<=://)[^\s/@\"]+:[^\s/@\"]+(?=@)")
_SHORTEST_SECRET = 6
"""Shorter values of such variables are words or flags."""

_logger = logging.getLogger("pintsize")


def event(logger: logging.Logger, message: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log `message` with fields for programs."""
    logger.log(level, "%s", message, extra={"fields": fields})


class Lines(logging.Formatter):
    """One event a line."""

    def __init__(self) -> None:
        super().__init__()
        self._start = time.monotonic()

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, without secrets."""
        moment = datetime.fromtimestamp(record.created, UTC)
        pairs = {
            "time": f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z",
            "elapsed": round(time.monotonic() - self._start, 1),
            "level": record.levelname,
            "logger": record.name,
            "msg": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            pairs["error"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        return " ".join(f"{key}={_text(value)}" for key, value in pairs.items())


def without_secrets(text: str) -> str:
    """`text` with `***` for what environment variables such as HF_TOKEN hold, and for passwords in URLs."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and value in text and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    return _IN_URL.sub("***", text)


@contextlib.contextmanager
def to_file(path: Path, *, only: Sequence[str] = ()) -> Iterator[None]:
    """Append what pintsize logs, from INFO up or from the logger's own lower level, to a file.

    Args:
        path: the file.
        only: the loggers whose events are wanted; by default all.

    Raises:
        OperationError: the file cannot be written.
    """
    try:
        handler = _File(path, encoding="utf-8")
    except OSError as error:
        raise OperationError(
            str(path), f"it cannot be written ({error.strerror})", "choose another folder"
        ) from error
    handler.setFormatter(Lines())
    if only:
        handler.addFilter(lambda record: record.name in only)
    before = _logger.level
    _logger.addHandler(handler)
    _logger.setLevel(min(before or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        _logger.removeHandler(handler)
        _logger.setLevel(before)
        handler.close()


def to_stderr(verbosity: int) -> None:
    """Show the log on standard error: nothing for 0, INFO for 1, DEBUG (in the run's log, too) from 2 on."""
    if verbosity < 1:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    _logger.addHandler(handler)
    _logger.setLevel(logging.INFO if verbosity == 1 else logging.DEBUG)


class _File(logging.FileHandler):
    """Where the disk is full, the log ends; what the run must write raises its own error."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 (logging's name)
        if not isinstance(sys.exc_info()[1], OSError):
            raise  # noqa: PLE0704 (called within an except clause)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the buffer's rest, on a full disk
            super().close()


def _text(value: Any) -> str:
    text = without_secrets(f"{value:.6g}" if isinstance(value, float) else str(value))
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


@contextlib.contextmanager
def silenced(*names: str) -> Iterator[None]:
    """Keep what libraries tell their own developers from the user: log lines of these loggers, and warnings."""
    loggers = [logging.getLogger(None if name == "root" else name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
