"""What mkdocs does with a page: tables of options come from where the options are declared."""

import re
from typing import Any

from pintsize.recipe.section import table_of


def on_page_markdown(markdown: str, **_: Any) -> str:
    """`<!-- options: SECTION -->` becomes the table of that section of a recipe."""
    return re.sub(r"<!-- options: (\w+) -->", lambda found: table_of(found[1]), markdown)
