"""Numbers for each picture, from a CSV file: a column of file names, the others numbers."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import torch

from ..errors import CorruptFile, DataNotFound
from .annotated import Annotated, Listed

_FILES = ("file", "file_name", "filename", "path", "image", "picture")
_PART = "split"


def scan(path: Path) -> Annotated:
    """Read a table with a header; files are sought beside it.

    The column of file names is called file, file_name, filename, path, image or picture, else it is the first. A column
    `split` says train, val or test. All others are numbers, by whose names the outputs are called.

    Raises:
        DataNotFound: there is no such file.
        CorruptFile: it has no header or no names in it, no columns of numbers, or something else in one.
    """
    if not path.is_file():
        raise DataNotFound(f"CSV data set {path}", "there is no such file", "check the path after 'csv:'")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file, skipinitialspace=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorruptFile(str(path), f"it is no CSV file ({error})", "write it anew, in UTF-8") from error
    header = [name.strip() for name in rows[0]] if rows else []
    lower = [name.lower() for name in header]
    names = next((lower.index(name) for name in _FILES if name in lower), 0)
    part = lower.index(_PART) if _PART in lower else None
    numbers = [at for at in range(len(header)) if at not in (names, part)]
    if not numbers or len(rows) < 2:
        raise CorruptFile(
            str(path),
            "it has no columns of numbers, or no rows",
            "write a header such as file,age and a row a picture",
        )
    _check_header(path, header, names, numbers)
    files: dict[str, list[str]] = {}
    values: dict[str, list[list[float]]] = {}
    for line, row in enumerate(rows[1:], 2):
        if not any(row):
            continue
        where = f"{path}, line {line}"
        if len(row) != len(header):
            raise CorruptFile(
                where, f"it has {len(row)} columns, the header {len(header)}", "write one of each"
            )
        of = row[part].strip().lower() if part is not None else "train"
        if of not in ("train", "val", "test"):
            raise CorruptFile(where, f"split is {of!r}", "write train, val or test")
        files.setdefault(of, []).append(str(path.parent / row[names].strip()))
        values.setdefault(of, []).append([_number(where, header[at], row[at]) for at in numbers])
    if "train" not in files:
        raise CorruptFile(str(path), "no row is of split train", "write train, val or test into that column")
    parts = {of: Listed(tuple(files[of]), torch.tensor(values[of])) for of in files}
    return Annotated(
        "csv", path, tuple(header[at] for at in numbers), parts, "regression", flip=False, usual=(224, 224)
    )


def _check_header(path: Path, header: list[str], names: int, numbers: list[int]) -> None:
    """Raise if the first row looks like a picture's, or a column has no name."""
    if header[names].lower() not in _FILES and (
        (path.parent / header[names]).is_file() or any(map(_is_number, (header[at] for at in numbers)))
    ):
        raise CorruptFile(
            f"{path}, line 1", f"it looks like a row of a picture, not like the names of columns: {','.join(header)[:60]}",
            "write names above it, such as file,age; if it is names, call the column of file names file",
        )  # fmt: skip
    bare = next((at for at in numbers if not header[at]), None)
    if bare is not None:
        raise CorruptFile(
            f"{path}, line 1", f"column {bare + 1} has no name",
            "name it, or remove it if it but counts the rows",
        )  # fmt: skip


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(where: str, column: str, text: str) -> float:
    value = float(text) if _is_number(text) else math.nan
    if not math.isfinite(value):
        raise CorruptFile(
            where, f"{column} is {text.strip()!r}, not a number", "correct it, or remove the row"
        )
    return value
