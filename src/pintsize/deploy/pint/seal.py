"""A checksum at the end of a file, so that damage is found before a runtime parses it.

Protocol buffers may be concatenated, so a last metadata entry can hold the SHA-256 of all bytes
before it: the file stays an ordinary ONNX model for everyone else.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from ...errors import CorruptFile, InputError

PRODUCER = "pintsize"
_KEY = b"pintsize.sha256"
_ENTRY = b"\x0a" + bytes([len(_KEY)]) + _KEY + b"\x12\x40"  # key; value of 64 hexadecimal digits
_HEAD = b"\x72" + bytes([len(_ENTRY) + 64]) + _ENTRY  # ModelProto.metadata_props is field 14
_SIZE = len(_HEAD) + 64
_TAIL = b"\npintsize.sha256 "
_PTE_HEADER = 40
_COMMENT, _COMMENT_END = b"<!-- pintsize.sha256 ", b" -->\n"


def seal(model: bytes) -> bytes:
    """`model`, a serialised ModelProto, with its checksum."""
    return model + _HEAD + hashlib.sha256(model).hexdigest().encode()


def check(path: Path) -> None:
    """Compare a file with its checksum; files that other tools wrote have none and pass.

    Raises:
        CorruptFile: the file is empty, or it is ours and not as it was written.
    """
    content = path.read_bytes()
    if not content:
        raise CorruptFile(str(path), "it is empty", "export the model again")
    sealed = content[-_SIZE:-64] == _HEAD
    ours = (
        b"\x12" + bytes([len(PRODUCER)]) + PRODUCER.encode() in content[:32]
    )  # ModelProto.producer_name is field 2
    if not sealed and not ours:
        return
    digest = hashlib.sha256(memoryview(content)[:-_SIZE]).hexdigest().encode()
    if not sealed or content[-64:] != digest:
        raise CorruptFile(
            str(path), "its content does not match its checksum", "restore it from a copy, or export again"
        )


def seal_pair(text: bytes, weights: bytes) -> bytes:
    """`text`, an OpenVINO `.xml`, with a comment at its end: the checksum of it and of its `.bin`."""
    return text + _COMMENT + hashlib.sha256(text + weights).hexdigest().encode() + _COMMENT_END


def check_pair(path: Path) -> tuple[bytes, bytes]:
    """The content of an OpenVINO `.xml` and of the `.bin` beside it.

    Raises:
        InputError: there is no `.bin`.
        CorruptFile: they are ours and not as they were written, or the `.xml` is empty.
    """
    beside = path.with_suffix(".bin")
    if not beside.is_file():
        raise InputError(str(path), f"there is no {beside.name} beside it", "copy both files")
    text, weights = path.read_bytes(), beside.read_bytes()
    if not text:
        raise CorruptFile(str(path), "it is empty", "export the model again")
    body, mark, rest = text.rpartition(_COMMENT)
    if not mark and b"<pintsize>" not in text:
        return text, weights  # another tool's
    if rest != hashlib.sha256(body + weights).hexdigest().encode() + _COMMENT_END:
        raise CorruptFile(
            str(path),
            f"it and {beside.name} do not match their checksum",
            "restore both from a copy, or export again",
        )
    return text, weights


def seal_tail(program: bytes) -> bytes:
    """`program`, a `.pte` file, with its checksum behind it, where ExecuTorch does not look."""
    return program + _TAIL + hashlib.sha256(program).hexdigest().encode()


def check_tail(path: Path) -> bool:
    """Compare a `.pte` file with its checksum; files that other tools wrote have none: False.

    Raises:
        CorruptFile: the file is empty or cut off, or it is ours and not as it was written.
    """
    content = path.read_bytes()
    if content[4:6] != b"ET":
        raise CorruptFile(str(path), "it is not an ExecuTorch program", "export the model again")
    if len(content) < _declared_size(content):
        raise CorruptFile(str(path), "it is cut off", "restore it from a copy, or export again")
    body, mark, digest = content[: -len(_TAIL) - 64], content[-len(_TAIL) - 64 : -64], content[-64:]
    if mark != _TAIL and b"pintsize" not in content:
        return False
    if mark != _TAIL or hashlib.sha256(body).hexdigest().encode() != digest:
        raise CorruptFile(
            str(path), "its content does not match its checksum", "restore it from a copy, or export again"
        )
    return True


def _declared_size(program: bytes) -> int:
    """Bytes that a `.pte` file says it has; 0 if it does not say."""
    if len(program) < _PTE_HEADER:
        return _PTE_HEADER
    if program[8:12] != b"eh00":
        return 0
    (length,) = struct.unpack_from("<I", program, 12)
    size, start, data = struct.unpack_from("<QQQ", program, 16)
    return int(max(size, start + (data if length >= 32 else 0)))
