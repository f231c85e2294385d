"""Tables: plain text for a log or a pipe, rich on a terminal, HTML in a notebook."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.table import Table as RichTable

_STAGE_HEADINGS = ("", "parameters", "MACs", "file", "latency")
_NARROWEST = 10
"""Columns of a terminal that a column of words keeps."""

Cells = Sequence[str]


def judged(row: Mapping[str, Any], prefix: str = "") -> float | None:
    """How good the network of a row is: its accuracy, or the metric of another task; None if it was not judged.

    Args:
        row: of a history, a result or a file.
        prefix: of the key: `val_`, `train_`, `best_val_`, …
    """
    found = row.get(f"{prefix}accuracy")
    return row.get(f"{prefix}metric") if found is None else found


@dataclass(frozen=True)
class Table:
    """Rows of texts under headings: words to the left, numbers to the right."""

    headings: Cells
    rows: Sequence[Cells]
    total: Cells | None = None
    """A last row, set apart."""
    words: int = 1
    """So many columns, the first ones, hold words; on a narrow terminal they are cut, numbers never."""
    heat: Sequence[Sequence[float | None]] | None = None
    """For each row how hot each cell is, 0–1; None for cells without a colour."""
    caption: str = ""

    def widths(self, limit: int | None = None) -> list[int]:
        """Characters of each column, with the columns of words cut so that all fit into `limit`."""
        lines = [self.headings, *self.rows, *([self.total] if self.total else [])]
        found = [max(map(len, column)) for column in zip(*lines, strict=True)]
        over = sum(found) + 2 * len(found) - limit if limit is not None else 0
        for column in reversed(range(self.words)):  # names, the first column, are cut last
            cut = max(0, min(over, found[column] - _NARROWEST))
            found[column] -= cut
            over -= cut
        return found

    def __str__(self) -> str:
        widths = self.widths()
        texts = [
            "  ".join(
                cell.ljust(width) if column < self.words else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in (self.headings, *self.rows, *([self.total] if self.total else []))
        ]
        rule = "─" * max(map(len, texts))
        if self.total:
            texts.insert(-1, rule)
        return "\n".join([texts[0], rule, *texts[1:]])

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[RichTable]:
        yield self.rich(options.max_width)

    def rich(self, width: int | None = None) -> RichTable:
        """As a rich table for a terminal of so many columns."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        widths = self.widths(width)
        made = RichTable(
            title=self.caption or None,
            title_justify="left",
            title_style="bold",
            show_footer=self.total is not None,
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for column, heading in enumerate(self.headings):
            made.add_column(
                heading,
                footer=self.total[column] if self.total else "",
                justify="left" if column < self.words else "right",
                no_wrap=True,
                min_width=widths[column],
                max_width=widths[column],
            )
        for cells, heats in zip(self.rows, self._heats(), strict=True):
            made.add_row(
                *(
                    Text(shortened(cell, limit), style=_terminal_style(heat))
                    for cell, limit, heat in zip(cells, widths, heats, strict=True)
                )
            )
        return made

    def _repr_html_(self) -> str:
        def line(cells: Cells, heats: Sequence[float | None], tag: str) -> str:
            return "".join(
                f"<{tag} style='text-align:{'left' if column < self.words else 'right'}{_html_style(heat)}'>"
                f"{escape(cell)}</{tag}>"
                for column, (cell, heat) in enumerate(zip(cells, heats, strict=True))
            )

        cold = [None] * len(self.headings)
        caption = f"<caption style='text-align:left'>{escape(self.caption)}</caption>" if self.caption else ""
        body = "".join(
            f"<tr>{line(row, heats, 'td')}</tr>" for row, heats in zip(self.rows, self._heats(), strict=True)
        )
        foot = f"<tfoot><tr>{line(self.total, cold, 'th')}</tr></tfoot>" if self.total else ""
        head = f"<thead><tr>{line(self.headings, cold, 'th')}</tr></thead>"
        return f"<table>{caption}{head}<tbody>{body}</tbody>{foot}</table>"

    def _heats(self) -> Sequence[Sequence[float | None]]:
        return self.heat if self.heat is not None else [[None] * len(self.headings)] * len(self.rows)


class Tabular(ABC):
    """A result that is one table: printed it is plain, on a terminal rich, in a notebook HTML."""

    @abstractmethod
    def __rich__(self) -> Table:
        """The table."""

    def table(self) -> str:
        """The table as plain text."""
        return str(self.__rich__())

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return self.__rich__()._repr_html_()


def shortened(name: str, limit: int) -> str:
    """`name` cut in the middle to `limit` characters."""
    keep = (limit - 1) // 2
    return name if len(name) <= limit else f"{name[: limit - 1 - keep]}…{name[len(name) - keep :]}"


def text_table(headings: Cells, rows: Sequence[Cells]) -> str:
    """Aligned columns under their headings, the first one to the left, the others to the right."""
    return str(Table(headings, rows))


def stage_table(stages: Sequence[Mapping[str, Any]]) -> Table:
    """The stages of a run: accuracy on the test images, size, and median latency of one image."""
    from .units import Scale, bytes_text, count_text, milliseconds_text  # measure draws its tables from here

    compressed = any("compressed_bytes" in stage for stage in stages)
    rows = [
        (
            str(stage["name"]),
            Scale.of(stage).told(judged(stage) or 0.0),
            count_text(stage["params"]),
            count_text(stage["macs"]),
            bytes_text(stage["bytes"]),
            milliseconds_text(stage["latency"]["median_ms"]),
            *([bytes_text(stage["compressed_bytes"])] if compressed else []),
        )
        for stage in stages
    ]
    headings = (_STAGE_HEADINGS[0], Scale.among(stages).metric, *_STAGE_HEADINGS[1:])
    return Table((*headings, "as .pint") if compressed else headings, rows)


def _terminal_style(heat: float | None) -> str:
    """Black on a colour from pale to deep orange, so that it reads on dark and light terminals."""
    if heat is None or heat < 0.02:
        return ""
    cold, hot = (254, 237, 222), (241, 118, 26)
    red, green, blue = (round(a + (b - a) * heat) for a, b in zip(cold, hot, strict=True))
    return f"#000000 on #{red:02x}{green:02x}{blue:02x}"


def _html_style(heat: float | None) -> str:
    """The same, translucent: a notebook may be dark."""
    return "" if heat is None else f";background:rgb(213 94 0 / {0.45 * heat:.2f})"


def jsonable(value: Any, path: Callable[[Path], str] = str) -> Any:
    """`value` in the types that JSON has; of a dataclass the fields that its repr has; a path as `path` writes it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = (field.name for field in dataclasses.fields(value) if field.repr)
        return {name: jsonable(getattr(value, name), path) for name in shown}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item, path) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item, path) for item in value]
    return path(value) if isinstance(value, Path) else value
