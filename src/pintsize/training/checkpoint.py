"""Checkpoints: one file, whole or not there, that only the training it belongs to takes up again.

Layout: a line that names the format, the SHA-256 of the rest, then a `torch.save` archive of tensors and
plain types. The file replaces the one before it in one step, so a kill at any moment leaves a whole one.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pintsize.errors import CorruptFile, InputError, InputTypeError, OperationError

from ..storage.atomic import atomic, check_place

_MAGIC = b"pintsize checkpoint 1\n"
_DIGEST = hashlib.sha256().digest_size
_SCALARS = (type(None), bool, int, float, str, bytes, torch.dtype, torch.Size, torch.device)


def prepare(path: Path) -> None:
    """Make sure, before any work is done, that a checkpoint can be written to `path`.

    Raises:
        InputError: `path` is a folder.
        OperationError: its folder cannot be written to.
    """
    check_place(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.????????"):
        with contextlib.suppress(OSError):  # half-written by a run that was killed; harmless where it stays
            left.unlink()


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` to `path`; until it is whole on disk the file of before stays.

    Raises:
        InputTypeError: something in it is neither a tensor nor a plain type, so it could not be read back.
        OperationError: the file cannot be written.
    """
    _require_plain(content, "checkpoint")
    buffer = io.BytesIO()
    torch.save(content, buffer)
    payload = buffer.getbuffer()
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(_MAGIC)
        file.write(hashlib.sha256(payload).digest())
        file.write(payload)


def read(path: Path) -> dict[str, Any]:
    """Read what `write` wrote, tensors on the CPU; no code in the file is run.

    Raises:
        CorruptFile: it is damaged, or no checkpoint.
        OperationError: it may not be read.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise OperationError(
            str(path), f"cannot be read ({error.strerror or error})", "check the file's permissions"
        ) from error
    start = len(_MAGIC) + _DIGEST
    remedy = "restore it from a copy, or remove it to train from the beginning"
    if not raw.startswith(_MAGIC):
        raise CorruptFile(str(path), "it is not a pintsize checkpoint", remedy)
    payload = memoryview(raw)[start:]
    if hashlib.sha256(payload).digest() != raw[len(_MAGIC) : start]:
        raise CorruptFile(str(path), "it does not match its checksum", remedy)
    try:
        content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError) as error:
        raise CorruptFile(str(path), f"it cannot be read ({str(error).splitlines()[0]})", remedy) from error
    if not isinstance(content, dict) or not isinstance(content.get("configuration"), dict):
        raise CorruptFile(str(path), "it holds no training", remedy)
    return content


def require_same(path: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `InputError`, naming what differs, unless the checkpoint is of this very training."""
    keys = dict.fromkeys([*saved, *now])
    differences = [
        f"{key} was {saved.get(key)!r}, is {now.get(key)!r}" for key in keys if saved.get(key) != now.get(key)
    ]
    if differences:
        raise InputError(
            str(path),
            f"it belongs to another training: {'; '.join(differences)}",
            "use the same options to resume, or another checkpoint path to start anew",
        )


def _require_plain(value: Any, where: str) -> None:
    if isinstance(value, Tensor) or type(value) in _SCALARS:
        return
    if type(value) in {dict, OrderedDict}:
        for key, item in value.items():
            if type(key) not in _SCALARS:
                raise _not_plain(f"key {key!r} of {where}", key)
            _require_plain(item, f"{where}[{key!r}]")
    elif type(value) in {list, tuple}:
        for index, item in enumerate(value):
            _require_plain(item, f"{where}[{index}]")
    else:
        raise _not_plain(where, value)


def _not_plain(where: str, value: object) -> InputTypeError:
    return InputTypeError(
        where,
        f"a {type(value).__name__} cannot be stored: only what is read without running code can",
        "use tensors, numbers, strings, lists and dictionaries in state_dict and get_extra_state",
    )
