"""A checksum at the end of an ONNX file, so that damage is found before a runtime parses it.

Protocol buffers may be concatenated, so a last metadata entry can hold the SHA-256 of all bytes
before it: the file stays an ordinary ONNX model for everyone else.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import CorruptFile

PRODUCER = "pintsize"
_KEY = b"pintsize.sha256"
_ENTRY = b"\x0a" + bytes([len(_KEY)]) + _KEY + b"\x12\x40"  # key; value of 64 hexadecimal digits
_HEAD = b"\x72" + bytes([len(_ENTRY) + 64]) + _ENTRY  # ModelProto.metadata_props is field 14
_SIZE = len(_HEAD) + 64


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
