"""The command line: `pintsize VERB …`, the same verbs and options as in Python.

Exit codes: 0 done; 1 an operation failed; 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..errors import PintsizeError
from .app import app as app
from .app import application


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        application()(args=arguments, prog_name="pintsize")
    except PintsizeError as error:
        sys.stderr.write(f"pintsize: {' '.join(str(error).split())}\n")
        # those that the user can mend by other input are ValueErrors or TypeErrors, see errors.py
        sys.exit(2 if isinstance(error, ValueError | TypeError) else 1)
