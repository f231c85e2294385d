"""A report in a notebook."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())


class ReportFile(_Path):
    """The path of a report; a notebook shows the report itself."""

    def _repr_html_(self) -> str:
        if not self.is_file():
            return f"<code>{escape(str(self))}</code>"
        page = escape(self.read_text(encoding="utf-8"), quote=True)
        return (
            f'<iframe srcdoc="{page}" title="pintsize report" sandbox="allow-scripts" '
            'style="width:100%;height:44rem;border:1px solid #8886;border-radius:8px"></iframe>'
        )
