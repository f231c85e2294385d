"""Make a trained PyTorch vision network small and fast on real hardware, measured on the exported file.

The public names; each is imported when it is first used, so that `import pintsize` stays quick.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name → (module, attribute); attribute None is the module itself
_PUBLIC = {
    "models": (".models", None),
    "data": (".data", None),
    "graph": (".graph", None),
    "errors": (".errors", None),
    "viz": (".viz", None),
    "report": (".report", None),
    "show": (".report", "show"),
    "train": (".train", "train"),
    "evaluate": (".train", "evaluate"),
    "profile": (".measure", "profile"),
    "channel_groups": (".graph", "channel_groups"),
    "prune": (".prune", "prune"),
    "PruningPlan": (".prune", "PruningPlan"),
    "sparsify": (".prune", "sparsify"),
    "sensitivity": (".prune.sensitivity", "sensitivity"),
    "layer_importance": (".prune.layer_importance", "layer_importance"),
    "prune_by_rules": (".prune.rule_run", "prune_by_rules"),
    "prune_rounds": (".prune.rounds", "prune_rounds"),
    "quantize": (".quant", "quantize"),
    "choose_bits": (".quant", "choose_bits"),
    "cluster": (".quant", "cluster"),
    "fixed_point": (".quant", "fixed_point"),
    "save": (".files", "save"),
    "load": (".files", "load"),
    "export": (".deploy", "export"),
    "open_runtime": (".deploy", "open_runtime"),
    "verify": (".deploy", "verify"),
    "compress": (".pipeline", "compress"),
}

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604 (all are strings)

if TYPE_CHECKING:
    from . import data as data
    from . import errors as errors
    from . import graph as graph
    from . import models as models
    from . import report as report
    from . import viz as viz
    from .deploy import export as export
    from .deploy import open_runtime as open_runtime
    from .deploy import verify as verify  # type: ignore[no-redef]
    from .files import load as load
    from .files import save as save
    from .graph import channel_groups as channel_groups
    from .measure import profile as profile  # type: ignore[no-redef]
    from .pipeline import compress as compress
    from .prune import PruningPlan as PruningPlan
    from .prune import prune as prune
    from .prune import sparsify as sparsify
    from .prune.layer_importance import layer_importance as layer_importance
    from .prune.rounds import prune_rounds as prune_rounds
    from .prune.rule_run import prune_by_rules as prune_by_rules
    from .prune.sensitivity import sensitivity as sensitivity
    from .quant import choose_bits as choose_bits
    from .quant import cluster as cluster
    from .quant import fixed_point as fixed_point  # type: ignore[no-redef]
    from .quant import quantize as quantize
    from .report import show as show  # type: ignore[no-redef]
    from .train import evaluate as evaluate
    from .train import train as train


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pintsize' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    found = importlib.import_module(module, __name__)
    value = found if attribute is None else getattr(found, attribute)
    globals()[name] = value
    return value


class _Package(types.ModuleType):
    """Keeps the functions `train` and `prune` from being hidden by the subpackages of the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, types.ModuleType) and _PUBLIC.get(name, ("", None))[1] is not None:
            return  # the import system binds a subpackage to its parent; `sys.modules` still has it
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted(__all__)
