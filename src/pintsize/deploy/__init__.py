"""The files that are deployed: writing them, running them, holding them against the simulated model."""

from .formats import WRITERS as WRITERS
from .formats import export as export
from .memory import PeakMemory as PeakMemory
from .memory import memory_use as memory_use
from .memory import peak_memory as peak_memory
from .options import ExportInfo as ExportInfo
from .runtime import RUNTIMES as RUNTIMES
from .runtime import Backend as Backend
from .runtime import Runtime as Runtime
from .runtime import integer_nodes as integer_nodes
from .runtime import open_runtime as open_runtime
from .runtime import open_runtimes as open_runtimes
from .verification import Verification as Verification
from .verification import verify as verify
