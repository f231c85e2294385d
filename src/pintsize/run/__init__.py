"""A run: one recipe carried out in one folder."""

from .compression import CompressResult as CompressResult
from .compression import compress as compress
from .shrinking import ShrinkResult as ShrinkResult
from .shrinking import shrink as shrink
