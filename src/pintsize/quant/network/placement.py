"""Where quantizers go so that a runtime can compute in integers.

Every value that an integer kernel reads is quantized once, where it is made. A convolution or linear
layer takes the batch norm and ReLU that follow it into its kernel, so the value to quantize is what
comes out of the last of them. Values that only move (reshape, slice, max pool, concatenation) keep
their scale: all they come from and go to share one quantizer. Of what is concatenated, results of kernels with
a ReLU of their own keep their own scale beside others (else the ReLU would be no part of the kernel): the
concatenation rounds them to its scale. What is not understood is computed in
floating point on dequantized values and ends the integer region; nothing is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

from ...graph.trace import CallKey
from .flow import Edge, Flow, Kind, Node, call_result
from .pools import divisors

INPUT = "input"
"""`CallKey.function` of the network's inputs."""


@dataclass(frozen=True)
class Place:
    """A tensor that a call returns, or an input of the network."""

    module: str
    function: str
    occurrence: int
    index: int
    """Which of the tensors, if the call returns several."""
    echo: bool = False
    """Already on the grid: quantized again only in an exported graph, where runtimes look for it."""

    @classmethod
    def of(cls, call: CallKey, index: int, *, echo: bool = False) -> Place:
        """The `index`-th result of `call`."""
        return cls(call.module, call.function, call.occurrence, index, echo)

    @property
    def call(self) -> CallKey:
        """The call that returns it."""
        return CallKey(self.module, self.function, self.occurrence)

    @property
    def label(self) -> str:
        """For messages, e.g. 'layer1.0.relu (relu 1)'."""
        if self.function == INPUT:
            return f"{INPUT} {self.index}"
        return f"{self.module or 'network'} ({self.function.rpartition('.')[2]} {self.occurrence})"


@dataclass
class Placement:
    """One quantizer: the values that share its scale."""

    name: str
    bits: int
    places: list[Place]

    @property
    def label(self) -> str:
        """For messages: the first place."""
        return self.places[0].label


@dataclass(frozen=True)
class Pair:
    """The quantizers of what an addition, a multiplication or an average pool reads."""

    one: str
    other: str | None
    """None: an operand of a concatenation, which is rounded to its scale, or of a pool."""
    product: bool
    divisors: tuple[int, ...] = ()
    """By which a pool divides its sums."""


Clip = tuple[float | None, float | None]
"""The ends of a ReLU, ReLU6 or clamp."""


@dataclass(frozen=True)
class End:
    """What one run of a layer gives."""

    quantizer: str | None
    """The placement that its result goes to."""
    clip: Clip | None
    """The activation in its kernel."""


@dataclass
class Plan:
    """All quantizers of a network."""

    layers: list[str] = field(default_factory=list)
    """Paths of the layers, in the order they run."""
    activations: list[Placement] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)
    """Layer → name of the placement it reads."""
    outputs: dict[str, str] = field(default_factory=dict)
    """Layer → name of the placement that its result goes to; layers that run once."""
    input_bits: dict[str, int] = field(default_factory=dict)
    """Layers that round what they read to fewer bits than its other readers."""
    pairs: dict[str, list[Pair]] = field(default_factory=dict)
    """Quantizer of sums, products, means or concatenations → what they are of, in the order of the forward."""
    ends: dict[str, list[End]] = field(default_factory=dict)
    """Layer → what it gives, at each run."""
    skips: dict[CallKey, int] = field(default_factory=dict)
    """As `Flow.skips`."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Layers that were not quantized, or modules that compute as such → why."""


def layers(flow: Flow) -> list[str]:
    """Paths of the layers that can be quantized, in the order they run first."""
    return list(dict.fromkeys(node.layer for node in flow.nodes if node.layer is not None))


def plan(flow: Flow, activations: Mapping[str, int | None], *, outputs: bool = False) -> Plan:
    """Choose where quantizers go.

    Args:
        flow: the network, in which layers that stay in floating point are not layers.
        activations: bits of what each layer reads; None: its input is not quantized for its sake.
        outputs: quantize what the last layers give, too.

    Returns:
        The plan. A value that a layer reads at fewer than 8 bits and something else reads, too, is kept
        at 8 bits and rounded further in front of that layer.
    """
    return _Planner(flow, activations, outputs).plan()


class _Group:
    """Values that share a scale."""

    def __init__(self, edge: Edge) -> None:
        self.edges = [edge]
        self.places: list[Place] = []
        self.placeable = True
        self.clip: Clip | None = None
        """The activation in the kernel that gave them."""
        self.kernel = False
        """A layer, add or pool gave them."""
        self.integer = False
        """An integer kernel reads or gives them."""


class _Planner:
    def __init__(self, flow: Flow, activations: Mapping[str, int | None], outputs: bool) -> None:
        self.flow, self.bits, self.quantize_outputs = flow, activations, outputs
        self.last = {node.op.call: node for node in flow.nodes if node.op.call is not None}
        self.group: dict[Edge, _Group] = {}
        self.fused: dict[Edge, Edge] = {}  # inside of a kernel → what comes out of it
        self.ends: set[Edge] = set()  # what comes out of kernels
        self.clips: dict[Edge, Clip] = {}  # those with an activation inside → that
        self.rounded: dict[Node, list[Edge]] = {}  # concatenations → operands with a scale of their own
        self.leaves = set(flow.outputs)

    def plan(self) -> Plan:
        self.fuse()
        for number, edge in enumerate(self.flow.inputs):
            self.start(edge, Place(INPUT, INPUT, 0, number) if edge.is_float else None)
        for node in self.flow.nodes:
            self.visit(node)
        self.spread()
        return self.collect(self.needed())

    def fuse(self) -> None:
        """Find the batch norms and ReLUs that a kernel takes in."""
        for node in self.flow.nodes:
            if node.kind is Kind.LAYER or node.kind is Kind.GLUE:
                inside = [node.outputs[0]]
                end = self.only_reader(inside[-1], node)
                if end is not None and end.kind is Kind.SAME and end.op.call == node.op.call:
                    inside.append(end.outputs[0])  # the reshape within a linear layer's call
                    end = self.only_reader(inside[-1], node)
                allowed = [Kind.NORM, Kind.CLIP] if node.kind is Kind.LAYER else [Kind.CLIP]
                while end is not None and end.kind in allowed:
                    out = end.outputs[0]
                    self.fused.update((edge, out) for edge in inside)
                    inside.append(out)
                    if end.kind is Kind.CLIP:
                        self.clips[out] = _bounds(end)
                    allowed = [Kind.CLIP] if end.kind is Kind.NORM else []
                    end = self.only_reader(out, end)
                self.ends.add(inside[-1])

    def only_reader(self, edge: Edge, after: Node) -> Node | None:
        """What alone reads `edge`, if it is not a result of the network."""
        readers = edge.readers
        if edge in self.leaves or len(readers) != 1 or readers[0].data[:1] != [edge]:
            return None
        return readers[0] if readers[0] is not after else None

    def start(self, edge: Edge, place: Place | None, *, kernel: bool = False) -> None:
        group = self.group[edge] = _Group(edge)
        group.kernel, group.clip = kernel, self.clips.get(edge)
        if place is None:
            group.placeable = False
        else:
            group.places.append(place)

    def visit(self, node: Node) -> None:
        """Put the outputs of `node` into a group of their own, or into that of what it passes on."""
        if not node.outputs:
            return
        if node.outputs[0] in self.fused:
            return
        data = [edge for edge in node.data if edge.computed]
        groups = [self.group[edge] for edge in data if edge in self.group]
        together = 0 < len(groups) == len(data) and all(group.placeable for group in groups)
        moves = node.kind in (Kind.SAME, Kind.JOIN)
        # a ReLU of its own on what a kernel gives keeps the levels; on anything else it makes new ones
        moves |= (
            node.kind is Kind.CLIP and node.name.startswith("relu") and all(group.kernel for group in groups)
        )
        if node.kind is Kind.JOIN and together and len({group.clip for group in groups}) > 1:
            self.join(node, data)
            return
        group = self.unite(groups) if moves and together else None
        for edge in node.outputs:
            if not edge.is_float or not edge.computed:
                continue
            found = call_result(edge, self.last)
            if group is None:
                self.start(edge, Place.of(*found) if found else None, kernel=edge in self.ends)
            else:
                self.group[edge] = group
                group.edges.append(edge)
                if found and found[0] == node.op.call:
                    group.places.append(Place.of(*found, echo=True))

    def join(self, node: Node, data: list[Edge]) -> None:
        """Concatenate what has activations in its kernels and what has none, or another: each such keeps its own scale."""
        self.rounded[node] = [edge for edge in data if self.group[edge].clip is not None]
        others = [self.group[edge] for edge in data if self.group[edge].clip is None]
        out = node.outputs[0]
        found = call_result(out, self.last)
        place = Place.of(*found) if found else None
        if not others or place is None:
            self.start(out, place)
            return
        group = self.group[out] = self.unite(others)
        group.edges.append(out)
        group.places.append(place)

    def unite(self, groups: list[_Group]) -> _Group:
        first, *others = list(dict.fromkeys(groups))
        for other in others:
            first.edges += other.edges
            first.places += other.places
            first.kernel |= other.kernel
            for edge in other.edges:
                self.group[edge] = first
        return first

    def made(self, node: Node) -> _Group | None:
        """The group of what comes out of the kernel that `node` begins."""
        out = node.outputs[0]
        return self.group.get(self.fused.get(out, out))

    def spread(self) -> None:
        """Mark what is computed in integers: around layers, and on through adds and pools between them."""

        def mark(node: Node) -> None:
            for group in (*(self.group.get(edge) for edge in node.data), self.made(node)):
                if group is not None:
                    group.integer = True

        self.kernels: list[Node] = []
        waiting = []
        before = self.leading_to(
            {node for node in self.flow.nodes if node.kind is Kind.LAYER and self.bits.get(node.layer or "")}
        )
        for node in self.flow.nodes:
            if node.kind is Kind.LAYER and self.bits.get(node.layer or "") is not None:
                mark(node)
                self.kernels.append(node)
            elif (node.kind is Kind.GLUE or node in self.rounded) and (
                node in before or self.quantize_outputs
            ):
                waiting.append(node)
        while True:
            ready = [
                node
                for node in waiting
                if any(self.group[edge].integer for edge in node.data if edge in self.group)
            ]
            if not ready:
                break
            for node in ready:
                mark(node)
            self.kernels += ready
            waiting = [node for node in waiting if node not in ready]

    def leading_to(self, goals: set[Node]) -> set[Node]:
        """`goals` and all nodes before them."""
        found = set(goals)
        for node in reversed(self.flow.nodes):
            if any(reader in found for edge in node.outputs for reader in edge.readers):
                found.add(node)
        return found

    def needed(self) -> list[_Group]:
        """The groups from which a kernel reads, be it after a detour through floating point."""
        leads = self.leading_to(set(self.kernels))
        groups = [group for group in dict.fromkeys(self.group.values()) if group.integer]
        return [
            group
            for group in groups
            if self.quantize_outputs
            or any(reader in leads for edge in group.edges for reader in edge.readers)
        ]

    def collect(self, groups: list[_Group]) -> Plan:
        kernels = set(self.kernels)
        made = Plan()
        names: dict[_Group, str] = {}
        for group in groups:
            places = _distinct(group.places)
            if all(place.echo for place in places):
                continue
            readers = [node for edge in group.edges for node in edge.readers if node in kernels]
            wanted = [self.bits[node.layer] or 8 if node.layer is not None else 8 for node in readers]
            placement = Placement(_name(places[0], set(names.values())), max(wanted, default=8), places)
            made.activations.append(placement)
            names[group] = placement.name
            for node in readers:
                if node.layer is not None:
                    made.inputs.setdefault(node.layer, placement.name)
                    bits = self.bits[node.layer] or 8
                    if bits < placement.bits:
                        made.input_bits[node.layer] = bits
        made.layers, made.skips = layers(self.flow), dict(self.flow.skips)
        runs = Counter(node.layer for node in self.flow.nodes)
        for node in kernels:
            result = self.made(node)
            if node.layer is not None:
                out = node.outputs[0]
                clip = self.clips.get(self.fused.get(out, out))
                made.ends.setdefault(node.layer, []).append(End(names.get(result) if result else None, clip))
            if node.layer is not None and runs[node.layer] == 1 and result in names:
                made.outputs[node.layer] = names[result]
        self.pair(made, names, kernels)
        return made

    def pair(self, made: Plan, names: Mapping[_Group, str], kernels: set[Node]) -> None:
        """Note which quantized values `kernels` add, multiply, average or concatenate."""
        for node, operands in self.rounded.items():
            group = self.made(node)
            result = names.get(group) if group is not None and node in kernels else None
            own = [name for edge in operands if (name := names.get(self.group[edge])) not in (None, result)]
            if result is not None and own:
                pairs = made.pairs.setdefault(result, [])
                pairs += [Pair(name, None, product=False) for name in dict.fromkeys(own) if name is not None]
        for node in (node for node in self.flow.nodes if node in kernels and node.kind is Kind.GLUE):
            groups = [self.made(node), *(self.group.get(edge) for edge in node.data if edge.computed)]
            found = [names.get(group) for group in groups if group is not None]
            match found:
                case [str(result), str(one), *rest] if result not in (one, *rest) and None not in rest:
                    product, other = node.name.startswith("mul"), next(iter(rest), None)
                    made.pairs.setdefault(result, []).append(Pair(one, other, product, divisors(node.op)))


def _bounds(node: Node) -> Clip:
    if node.name.startswith("relu"):
        return 0.0, None
    given = {"min": None, "max": None, **node.op.kwargs}
    given.update(zip(("min", "max"), node.op.args[1:], strict=False))
    if node.name.startswith("hardtanh"):
        given = {"min": -1.0, "max": 1.0, **dict(zip(("min", "max"), node.op.args[1:], strict=False))}
    return given["min"], given["max"]


def _name(place: Place, taken: set[str]) -> str:
    """A name for the quantizer of `place`: `torch.relu` and `F.relu` of one module are told apart."""
    *around, function = place.function.split(".")
    if place.function == INPUT:
        return f"{INPUT}_{place.index}"
    path = place.module.replace(".", "__") or "network"
    end = f"{function.strip('_')}_{place.occurrence}" + (f"_{place.index}" if place.index else "")
    names = (f"{path}__{end}", *(f"{path}__{'_'.join(around[-n:])}_{end}" for n in range(1, len(around) + 1)))
    free = next((name for name in names if name not in taken), None)
    return free or next(name for n in count(2) if (name := f"{names[-1]}__{n}") not in taken)


def _distinct(places: list[Place]) -> list[Place]:
    """Each result of a call once: real rather than echo, the real ones first."""
    found: dict[tuple[str, str, int, int], Place] = {}
    for place in sorted(places, key=lambda place: place.echo):
        found.setdefault((place.module, place.function, place.occurrence, place.index), place)
    return list(found.values())
