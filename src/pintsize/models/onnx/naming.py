"""Module paths from what a file calls its nodes and weights."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from torch import nn

from .modules import LAYERS

if TYPE_CHECKING:
    import onnx_ir as ir

_WEIGHT = re.compile(r"weight|weight_v|kernel|bias|gamma|[wb]_\d+")
_CALLS = re.compile(r"^(StatefulPartitionedCall|PartitionedCall|model|main_graph|graph)(_\d+)?$")


class Paths:
    """Paths that were given out: each is a module's or a tensor's own, and none lies within a layer."""

    def __init__(self) -> None:
        self._layers: set[str] = set()
        self._above: set[str] = set()

    def module(self, node: ir.Node, kind: str) -> str:
        """For a layer: from its weight's name (`layer1.0.conv.weight`), else the node's (`/layer1/conv/Conv`)."""
        path = _of_weight(node) or _of_scopes(node) or _of_node(node)
        own = kind.lower()
        if (
            path
            and kind in _PLAIN
            and not re.search(r"act|pool|drop|norm|elu|swish|mish", path.rpartition(".")[2].lower())
        ):
            path = path if path.rpartition(".")[2].lower().startswith(own) else f"{path}.{own}"
        return self._free(path or own)

    def tensor(self, name: str) -> str:
        """For a constant."""
        return self._free(".".join(_parts(re.sub(r"_output_\d+$", "", name))) or "constant")

    def give_back(self, path: str) -> None:
        """Let another module have the path."""
        self._layers.discard(path)

    def _free(self, wanted: str) -> str:
        parts: list[str] = []
        *above, last = wanted.split(".")
        for part in above:
            parts.append(part)
            while ".".join(parts) in self._layers:
                parts[-1] += "_"
        parts.append(last)
        path, count = ".".join(parts), 1
        while path in self._layers or path in self._above:
            count += 1
            path = f"{'.'.join(parts)}_{count}"
        self._layers.add(path)
        for end in range(1, len(parts)):
            self._above.add(".".join(path.split(".")[:end]))
        return path


def _of_weight(node: ir.Node) -> str:
    for value in node.inputs[1:]:
        name = value.name if value is not None else None
        parts = (name or "").split(".")
        if len(parts) > 1 and _WEIGHT.fullmatch(parts[-1]):
            return ".".join(_parts(".".join(parts[:-1])))
    return ""


def _of_scopes(node: ir.Node) -> str:
    """What torch's newer exporter notes of the modules around a node."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        return ".".join(_parts(scopes[-2]))
    except (ValueError, SyntaxError, IndexError, TypeError, AttributeError, MemoryError, RecursionError):
        return ""


def _of_node(node: ir.Node) -> str:
    name = node.name or ""
    if not name or re.fullmatch(rf"(node_|n)?{re.escape(node.op_type)}?[_\d]*", name, re.IGNORECASE):
        return ""
    parts = [part for part in re.split(r"[/:]", name) if part]
    if len(parts) > 1 and re.match(
        rf"{re.escape(node.op_type)}|Conv2D|BiasAdd|MatMul|FusedBatchNorm", parts[-1]
    ):
        parts = parts[:-1]
    while len(parts) > 1 and _CALLS.match(parts[0]):
        parts = parts[1:]
    kept: list[str] = []
    for part in parts:  # torch writes /layer1/layer1.0/layer1.0.conv/Conv
        if kept and part.startswith(f"{kept[-1]}."):
            kept[-1] = part
        else:
            kept.append(part)
    return ".".join(_parts(".".join(kept)))


def _parts(name: str) -> list[str]:
    """As attribute names of modules, none of which torch has for itself."""
    found = [re.sub(r"\W+", "_", part).strip("_") for part in re.split(r"[./]", name)]
    return [f"{part}_" if hasattr(nn.Module, part) or part in _OWN else part for part in found if part]


_PLAIN = {
    kind
    for kind in LAYERS
    if not kind.startswith(("Conv", "Linear", "Batch", "Layer", "Group", "LSTM", "GRU", "RNN", "Emb"))
}
"""Layers without weights: torch calls them functions more often than modules, so that a path may be its caller's."""
_OWN = {"program", "training", "batch", "inputs", "outputs"}
