"""The files that are deployed: writing them, running them, holding them against the simulated model."""

from .options import ExportInfo as ExportInfo
from .runtime import Runtime as Runtime
from .runtime import integer_nodes as integer_nodes
from .runtime import open_runtime as open_runtime
from .runtime import open_runtimes as open_runtimes
from .verify import Verification as Verification
from .verify import verify as verify
from .writers import export as export
