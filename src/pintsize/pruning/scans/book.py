"""A scan's sums so far, in a file: one that was killed goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import CorruptFile, InputError
from ...storage.atomic import write_text

FORMAT = 1


class Book:
    """The sums of a scan so far, in a file."""

    def __init__(self, path: Path | None, identity: dict[str, Any], ratios: int) -> None:
        self.path, self.identity, self._ratios = path, identity, ratios
        self.sums: dict[str, list[list[float]]] = {}
        self.done: list[list[Any]] = []
        self.result: Any = None
        if path is not None and path.exists():
            document = read(path)
            if document.get("scan") != identity:
                raise InputError(
                    str(path), "it holds another scan (other weights, images or options)", "choose another path or remove it"
                )  # fmt: skip
            self.sums, self.done = document["sums"], document["done"]
            self.result = document.get("result")

    def has(self, go: int, name: str) -> bool:
        """Whether this part is done for these images."""
        return [go, name] in self.done

    def add(self, go: int, name: str, found: list[tuple[float, float]]) -> None:
        """Add what a part gave, and write the file."""
        sums = self.sums.setdefault(name, [[0.0, 0] for _ in found])
        for total, (loss, correct) in zip(sums, found, strict=True):
            total[0] += loss
            total[1] += correct
        self.done.append([go, name])
        self._write(None)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result beside the sums."""
        self._write(dict(result))

    def _write(self, result: Any) -> None:
        if self.path is not None:
            document = {"format": FORMAT, "scan": self.identity, "sums": self.sums, "done": self.done}
            write_text(self.path, json.dumps({**document, "result": result}))


def read(path: Path) -> dict[str, Any]:
    """What a file of a scan holds.

    Raises:
        InputError: there is no such file.
        CorruptFile: it is no scan.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(str(path), "there is no such file", "check the path") from error
    except (ValueError, RecursionError) as error:
        cause, remedy = f"it is not JSON ({error})", "restore it from a copy, or remove it"
        raise CorruptFile(str(path), cause, remedy) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CorruptFile(str(path), "it is no sensitivity scan", "choose another path")
    return document
