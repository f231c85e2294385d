"""One self-contained HTML file for a run, or for a comparison of several."""

from .figures import save_figures
from .page import render, write

__all__ = ["render", "save_figures", "write"]
