"""Make a trained PyTorch vision network small and fast on real hardware, measured on the exported file.

The public names; each is imported when it is first used, so that `import pintsize` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import former as _former  # noqa: F401 (makes the former names of packages known)
from .version import __version__ as __version__

_PACKAGES = ("models", "data", "tasks", "graph", "errors", "viz", "report")
_FUNCTIONS = {
    "show": "report",
    "Task": "tasks",
    "train": "training",
    "evaluate": "training",
    "profile": "measure",
    "channel_groups": "graph",
    "prune": "pruning",
    "PruningPlan": "pruning",
    "prune_by_attention": "pruning",
    "prune_by_layer_attention": "pruning",
    "prune_by_rules": "pruning",
    "prune_rounds": "pruning",
    "sparsify": "pruning",
    "sensitivity": "pruning",
    "layer_importance": "pruning",
    "quantize": "quant",
    "QuantizationAware": "quant",
    "fold_batchnorm": "quant",
    "reestimate_norms": "quant",
    "choose_bits": "quant",
    "cluster": "quant",
    "fixed_point": "quant",
    "save": "storage",
    "load": "storage",
    "export": "deploy",
    "open_runtime": "deploy",
    "verify": "deploy",
    "compress": "run",
    "shrink": "run",
}
"""Name → the package that it comes from."""

if TYPE_CHECKING:
    from . import data as data
    from . import errors as errors
    from . import graph as graph
    from . import models as models
    from . import report as report
    from . import tasks as tasks
    from . import viz as viz
    from .deploy import export as export
    from .deploy import open_runtime as open_runtime
    from .deploy import verify as verify
    from .graph import channel_groups as channel_groups
    from .measure import profile as profile
    from .pruning import PruningPlan as PruningPlan
    from .pruning import layer_importance as layer_importance
    from .pruning import prune as prune
    from .pruning import prune_by_attention as prune_by_attention
    from .pruning import prune_by_layer_attention as prune_by_layer_attention
    from .pruning import prune_by_rules as prune_by_rules
    from .pruning import prune_rounds as prune_rounds
    from .pruning import sensitivity as sensitivity
    from .pruning import sparsify as sparsify
    from .quant import QuantizationAware as QuantizationAware
    from .quant import choose_bits as choose_bits
    from .quant import cluster as cluster
    from .quant import fixed_point as fixed_point
    from .quant import fold_batchnorm as fold_batchnorm
    from .quant import quantize as quantize
    from .quant import reestimate_norms as reestimate_norms
    from .report import show as show
    from .run import compress as compress
    from .run import shrink as shrink
    from .storage import load as load
    from .storage import save as save
    from .tasks import Task as Task
    from .training import evaluate as evaluate
    from .training import train as train


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _FUNCTIONS:
        raise AttributeError(f"module 'pintsize' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_FUNCTIONS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(("__version__", *_PACKAGES, *_FUNCTIONS))
