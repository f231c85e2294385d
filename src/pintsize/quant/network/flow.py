"""The recorded forward as a graph of values in single-assignment form, sorted by what quantization cares for.

In-place operations write a tensor anew: each write is a new `Edge`, so that `relu_(x)` has an input
and an output like any other operation. Operations that do nothing, and those whose results nothing reads,
are not in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only

from ...graph.trace import CallKey, Op, Trace, Value
from .neutral import Neutral, Same, reads_shape_only


class Kind(Enum):
    """What an operation means to quantization."""

    LAYER = "convolution or linear layer with its own weight"
    NORM = "batch norm"
    CLIP = "relu, relu6, clamp: absorbed by the quantizer that follows"
    GLUE = "add, mul, average pool: has an integer kernel with its own output scale"
    SAME = "the output holds only values of the input: reshape, slice, max pool"
    JOIN = "concatenation: as SAME, of several inputs"
    OTHER = "not understood: computed in floating point"


@dataclass(eq=False)
class Edge:
    """A tensor at one moment: written once."""

    value: Value
    producer: Node | None = None
    """None for inputs, parameters and constants."""
    index: int = 0
    """Which output of the producer."""
    computed: bool = False
    """It depends on the network's input: made of more than parameters and constants."""
    readers: list[Node] = field(default_factory=list)

    @property
    def is_float(self) -> bool:
        """It has a floating dtype."""
        return self.value.dtype.is_floating_point


@dataclass(eq=False)
class Node:
    """One ATen operation."""

    op: Op
    kind: Kind
    args: tuple[Any, ...]
    """As `op.args` with an `Edge` for each tensor."""
    inputs: list[Edge]
    outputs: list[Edge] = field(default_factory=list)
    layer: str | None = None
    """Path of the module, for `Kind.LAYER`."""

    @property
    def name(self) -> str:
        """The operation's name without overload, e.g. 'add_'."""
        return str(self.op.func.overloadpacket.__name__)

    @property
    def weight(self) -> Edge | None:
        """What a convolution or matrix product multiplies its input with."""
        position = _WEIGHTED.get(self.name)
        return None if position is None else self.args[position]

    @property
    def data(self) -> list[Edge]:
        """The inputs that carry activations, not weights or norm parameters."""
        if self.kind in (Kind.LAYER, Kind.NORM):
            at = 1 if self.name == "addmm" else 0
            return [self.args[at]]
        if self.kind in (Kind.SAME, Kind.CLIP):
            return self.inputs[:1]
        return self.inputs


@dataclass(eq=False)
class Flow:
    """The graph of one forward pass."""

    nodes: list[Node]
    inputs: list[Edge]
    outputs: list[Edge]
    skips: dict[CallKey, int] = field(default_factory=dict)
    """Calls that do nothing → which of their tensors they give back as it is."""


MOVES = frozenset({
    "_unsafe_view", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "alias", "channel_shuffle", "chunk",
    "clone", "contiguous", "detach", "expand", "flatten", "flip", "index_select", "lift_fresh", "max_pool1d",
    "max_pool2d", "max_pool2d_with_indices", "max_pool3d", "max_pool3d_with_indices", "narrow",
    "native_channel_shuffle", "permute", "pixel_shuffle", "pixel_unshuffle", "reflection_pad1d",
    "reflection_pad2d", "reflection_pad3d", "repeat", "replication_pad1d", "replication_pad2d",
    "replication_pad3d", "reshape", "roll", "select", "slice", "split", "split_with_sizes", "squeeze", "t",
    "transpose", "unbind", "unfold", "unsqueeze", "upsample_nearest1d", "upsample_nearest2d",
    "upsample_nearest3d", "view",
})  # fmt: skip
_CLIP = frozenset({"relu", "relu_", "hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min", "clamp_min_"})
_NORM = frozenset({
    "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit_no_training",
})  # fmt: skip
_POOL = frozenset({
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "mean",
})  # fmt: skip
_BINARY = frozenset({"add", "add_", "mul", "mul_"})
_WEIGHTED = {"convolution": 1, "addmm": 2, "mm": 1, "linear": 1}  # position of the weight


def build(trace: Trace, model: nn.Module, *, ignore: Collection[str] = ()) -> Flow:
    """The graph of `trace`, which is of `model`; layers named in `ignore` are taken as not understood."""
    return _Builder(model, frozenset(ignore)).build(trace)


class _Builder:
    def __init__(self, model: nn.Module, ignore: frozenset[str]) -> None:
        self.modules = dict(model.named_modules())
        self.tensors: dict[str, Tensor] = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        self.ignore = ignore
        self.now: dict[Value, Edge] = {}
        self.base: dict[Value, Value] = {}  # a view → the value whose memory it shares
        self.neutral = Neutral()
        self.written: set[Value] = set()
        self.skipped: list[tuple[Op, Same]] = []
        self.nodes: list[Node] = []

    def build(self, trace: Trace) -> Flow:
        inputs = [Edge(value, computed=True) for value in trace.inputs]
        self.now.update((edge.value, edge) for edge in inputs)
        live = trace.live()
        for op in trace.ops:
            same = self.neutral.same(op)
            if same is not None:
                self.pass_on(op, same)
            elif op in live:
                self.node(op)
        flow = Flow(self.nodes, inputs, [self.edge(value) for value in trace.outputs])
        flow.skips = self.skips(trace)
        return flow

    def pass_on(self, op: Op, same: Same) -> None:
        """What `op` gives is what it takes."""
        out = op.outputs[0]
        if _is_view(op):
            self.base[out] = self.root(same.value)
        self.now[out] = self.edge(same.value)
        if same.always and self.now[out].computed:
            self.skipped.append((op, same))

    def skips(self, trace: Trace) -> dict[CallKey, int]:
        """The calls that need not be made: all that they do is nothing, and no later write tells their two ends apart."""
        ops = Counter(op.call for op in trace.ops)
        return {
            op.call: op.inputs.index(same.value)
            for op, same in self.skipped
            if op.call is not None
            and ops[op.call] == 1
            and self.written.isdisjoint((self.root(same.value), self.root(op.outputs[0])))
        }

    def edge(self, value: Value) -> Edge:
        return self.now.setdefault(value, Edge(value))

    def node(self, op: Op) -> None:
        args = tree_map_only(Value, self.edge, op.args)
        named = {key: value for key, value in op.kwargs.items() if key != "out"}  # written, not read
        inputs = [
            leaf
            for leaf in tree_flatten((args, tree_map_only(Value, self.edge, named)))[0]
            if isinstance(leaf, Edge)
        ]
        node = Node(op, Kind.OTHER, args, inputs)
        self.nodes.append(node)
        node.layer = self.layer_of(node)
        node.kind = Kind.LAYER if node.layer is not None else _kind(node)
        written = {arg for arg in op.inputs if arg in op.outputs}
        computed = not reads_shape_only(op) and any(edge.computed for edge in inputs)
        for edge in dict.fromkeys(inputs) if not reads_shape_only(op) else ():
            edge.readers.append(node)
        for value in written:
            self.overwrite(value, node, computed)
        for index, value in enumerate(op.outputs):
            if value not in written and op.inputs and _is_view(op):
                self.base[value] = self.root(op.inputs[0])
            self.now[value] = Edge(value, node, index, computed)
            node.outputs.append(self.now[value])

    def root(self, value: Value) -> Value:
        return self.base.get(value, value)

    def overwrite(self, value: Value, node: Node, computed: bool) -> None:
        """After a write into `value` all other views of its memory hold something new, too."""
        root = self.root(value)
        self.written.add(root)
        for other in (value, root):
            self.neutral.forget(other)
        others = [other for other in self.now if other is not value and self.root(other) is root]
        if not others:
            return
        sources = list(dict.fromkeys((*(self.now[other] for other in others), *node.inputs)))
        call = node.op.call
        whole = (
            call is not None and call.function == "torch.nn.functional.pad"
        )  # it returns what it writes parts of
        after = Node(node.op if whole else replace(node.op, call=None), Kind.OTHER, (), sources)
        self.nodes.append(after)
        for edge in sources:
            edge.readers.append(after)
        for other in others:
            computed |= self.now[other].computed
            self.now[other] = Edge(other, after, computed=computed)
            after.outputs.append(self.now[other])

    def layer_of(self, node: Node) -> str | None:
        """The module whose own weight `node` multiplies with, if it can be quantized."""
        weight = node.weight
        if weight is None or node.op.call is None:
            return None
        path = node.op.module
        module = self.modules[path]
        if path in self.ignore or not isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            return None
        owned = {id(tensor) for tensor in module.parameters()}
        waiting, found = [weight], False
        while waiting:  # a linear layer's weight comes transposed, a parametrized one computed
            edge = waiting.pop()
            maker = edge.producer
            if maker is None:
                found |= id(self.tensors.get(edge.value.name or "")) in owned
            elif edge.computed or (
                maker.name not in MOVES
                and not maker.op.module.startswith((f"{path}.parametrizations.", f"{path}.weight_quantizer"))
            ):
                return None
            else:
                waiting += maker.inputs
        return path if found else None


def _kind(node: Node) -> Kind:
    name, op = node.name, node.op
    computed = [edge for edge in node.inputs if edge.computed and edge.is_float]
    if not computed or not all(out.dtype.is_floating_point for out in op.outputs[:1]):
        return Kind.OTHER
    if name in MOVES or (name == "constant_pad_nd" and (len(op.args) < 3 or op.args[2] == 0)):
        return Kind.SAME
    if name in _CLIP and len(node.inputs) == 1:
        return Kind.CLIP
    if name in _NORM and node.args[0].computed and node.args[3] is not None and not _on_batches(op):
        return Kind.NORM
    if name == "cat":
        return Kind.JOIN if len(computed) == len(node.inputs) else Kind.OTHER
    if name in _POOL:
        return Kind.GLUE
    if name in _BINARY and len(computed) == 2 and op.kwargs.get("alpha", 1) == 1:
        return Kind.GLUE
    return Kind.OTHER


def _on_batches(op: Op) -> bool:
    """Whether a norm takes the statistics of what it is given, its own or none."""
    return (
        op.func.overloadpacket.__name__ != "_native_batch_norm_legit_no_training" and op.args[5] is not False
    )


def _is_view(op: Op) -> bool:
    return any(out.alias_info is not None and not out.alias_info.is_write for out in op.func._schema.returns)


def call_result(edge: Edge, flow_position: dict[CallKey, Node]) -> tuple[CallKey, int] | None:
    """The user-level call that returns `edge`, and which of its results it is; None if no call does.

    Args:
        edge: any.
        flow_position: the last node of each call.
    """
    while edge.producer is not None and edge.producer.op.call is not None:
        call = edge.producer.op.call
        last = flow_position[call]
        if last is edge.producer:
            return call, edge.index
        inside = [node for node in edge.readers if node.op.call == call]
        if len(inside) != 1 or inside[0].kind is not Kind.SAME:
            return None
        edge = inside[0].outputs[0]  # e.g. the reshape that ends a linear layer on 3-D input
    return None
