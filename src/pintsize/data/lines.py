"""Text files that belong to pictures."""

from __future__ import annotations

from pathlib import Path

from ..errors import CorruptFile


def numbered(file: Path) -> list[tuple[int, str]]:
    """The lines that say something, with their numbers from 1.

    Raises:
        CorruptFile: it is no text in UTF-8.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise CorruptFile(str(file), f"it is no text in UTF-8 ({error})", "write it anew") from error
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
