"""Reports: one self-contained HTML file for a run or for several, a live view, a network layer by layer."""

from .compare import compare
from .display import ReportFile
from .figures import save_figures
from .page import render, write
from .showing import show
from .shown import Shown
from .watch import serve, watch

__all__ = ["ReportFile", "Shown", "compare", "render", "save_figures", "serve", "show", "watch", "write"]
