"""Channels, blocks and bits together: a path of ever cheaper networks, each step the one that saves most per damage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..deploy.layer_latency import LayerTimes
from ..graph import ChannelGroup, Graph
from ..pruning.channels import costs
from ..pruning.channels.costs import Shapes
from ..pruning.channels.depth import within
from .damage import Damage
from .latency_table import Layer, interpolate

_LEAST_ERROR = 1e-6
"""Changes that do less than this to the results count as this much, so that the larger saving goes first."""
_BYTES_PER_CHANNEL = 8
"""Scale and bias of an output channel of a quantized layer."""


@dataclass(frozen=True)
class Allocation:
    """How many units of each channel group go, the bits of each layer, and the residual blocks that go."""

    removed: Mapping[str, int]
    """Channel group → units."""
    bits: Mapping[str, int | None]
    """Layer → bits; None is floating point. Groups and layers of blocks that go are not in the two."""
    blocks: frozenset[str] = frozenset()
    """Residual blocks that go."""
    cost: float = field(default=0.0, compare=False)
    """Predicted, in the unit of the search."""
    cut_error: float = field(default=0.0, compare=False)
    """Predicted damage of the cuts, before any recovery."""
    width_error: float = field(default=0.0, compare=False)
    """Predicted damage of the widths."""

    @property
    def prunes(self) -> bool:
        """Whether any channel or block goes."""
        return any(self.removed.values()) or bool(self.blocks)

    def error(self, left: float) -> float:
        """Predicted damage after a recovery that leaves that share of the cuts'."""
        return left * self.cut_error + self.width_error

    @property
    def quantizes(self) -> bool:
        """Whether any layer is in integers."""
        return any(self.bits.values())


class CostModel:
    """What an allocation costs, predicted: latency from the table, bytes of the file, or MACs.

    Args:
        graph: of the dense network.
        layers: its convolutions and linear layers.
        minimize: `latency` (milliseconds), `bytes` or `macs`.
        times: layer → (input channels, output channels) → measured times; for latency.
    """

    def __init__(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        minimize: str,
        times: Mapping[str, Mapping[tuple[int, int], LayerTimes]],
    ) -> None:
        self.graph, self.layers, self.minimize, self._times = graph, layers, minimize, times
        self._macs = costs.macs(graph.trace)
        self._known: dict[tuple[str, int, int, int | None], float] = {}

    def __call__(
        self, removed: Mapping[str, int], bits: Mapping[str, int | None], blocks: frozenset[str] = frozenset()
    ) -> float:
        """Milliseconds, bytes or MACs."""
        groups = self.graph.groups
        shapes = costs.kept_shapes(self.graph, groups, [removed.get(group.name, 0) for group in groups])
        for name, shape in shapes.items() if blocks else ():
            if any(within(name, block) for block in blocks):
                shapes[name] = (0,) * len(shape)
        if self.minimize == "macs":
            return self._macs(shapes)
        if self.minimize == "bytes":
            return self._bytes(shapes, bits)
        return math.fsum(self._latency(layer, shapes, bits.get(layer.name)) for layer in self.layers)

    def _latency(self, layer: Layer, shapes: Shapes, bits: int | None) -> float:
        shape = shapes[f"{layer.name}.weight"]
        if not shape[0]:
            return 0.0
        whole_inputs, _ = layer.widths
        outputs = shape[0]
        inputs = outputs if layer.depthwise else shape[1] * max(1, whole_inputs // _per_group(layer))
        key = (layer.name, inputs, outputs, None if bits is None else 8)
        if key not in self._known:
            times = self._times[layer.name]
            if not times:  # of a kind that is not timed
                return 0.0
            floating = {pair: each.floating for pair, each in times.items()}
            # A float layer among integer ones costs the conversions that the time of a lone integer layer has
            # in it; so the latter is never taken to be the slower one.
            integer = {pair: min(each.integer, 0.9 * each.floating) for pair, each in times.items()}
            found = interpolate(floating if bits is None else integer, inputs, outputs)
            self._known[key] = found
        return self._known[key]

    def _bytes(self, shapes: Shapes, bits: Mapping[str, int | None]) -> float:
        narrow = {f"{name}.weight": width for name, width in bits.items() if width is not None}
        total = 0.0
        for name, value in self.graph.trace.parameters.items():
            if not value.is_parameter:
                continue
            count, width = math.prod(shapes[name]), narrow.get(name)
            total += (
                4.0 * count if width is None else count * width / 8 + _BYTES_PER_CHANNEL * shapes[name][0]
            )
        return total


def _per_group(layer: Layer) -> int:
    """Input channels that one output channel reads."""
    return layer.widths[0] // int(getattr(layer.module, "groups", 1))


class Space:
    """All allocations: levels of each group, widths of each layer.

    Args:
        groups: of the dense network.
        levels: group → numbers of removed units, ascending from 0.
        widths: bits from the widest to the narrowest.
        damage: of each change alone.
        cost: predicts.
    """

    def __init__(
        self,
        groups: Sequence[ChannelGroup],
        levels: Mapping[str, Sequence[int]],
        widths: Sequence[int | None],
        damage: Damage,
        cost: CostModel,
    ) -> None:
        self.groups, self.levels, self.widths = groups, levels, widths
        self.damage, self.cost = damage, cost

    def allocation(
        self, removed: Mapping[str, int], bits: Mapping[str, int | None], blocks: frozenset[str] = frozenset()
    ) -> Allocation:
        """With its predicted cost and damage."""
        cuts = [self.damage.groups[name][count] for name, count in removed.items()]
        return Allocation(
            dict(removed),
            dict(bits),
            blocks,
            self.cost(removed, bits, blocks),
            math.fsum([*cuts, *(self.damage.blocks[name] for name in blocks)]),
            math.fsum(self.damage.layers[name][width] for name, width in bits.items()),
        )

    def without(self, here: Allocation, block: str) -> Allocation:
        """An allocation without one more block, nor what is in it."""
        gone = {group.name for group in self.groups if all(within(m.parameter, block) for m in group.members)}
        return self.allocation(
            {name: count for name, count in here.removed.items() if name not in gone},
            {name: width for name, width in here.bits.items() if not within(name, block)},
            here.blocks | {block},
        )

    def dense(self, width: int | None = None) -> Allocation:
        """All channels, every layer with the same bits."""
        return self.allocation(dict.fromkeys(self.damage.groups, 0), dict.fromkeys(self.damage.layers, width))

    def path(self, left: float, start: Allocation, *, blocks: bool = True) -> list[Allocation]:
        """From an allocation to the cheapest one.

        Args:
            left: share of the damage of cuts that recovery leaves.
            start: the first one.
            blocks: whether further blocks may go.
        """
        found = [start]
        while True:
            here = found[-1]
            best, worth = None, 0.0
            for step in self._steps(here, blocks):
                saved = here.cost - step.cost
                value = saved / max(step.error(left) - here.error(left), _LEAST_ERROR)
                if saved > 1e-9 * found[0].cost and value > worth:
                    best, worth = step, value
            if best is None:
                return found
            found.append(best)

    def _steps(self, here: Allocation, blocks: bool) -> Iterator[Allocation]:
        """Every allocation in which one group is narrower, one layer has fewer bits, or one block is away."""
        for name, removed in here.removed.items():
            for count in self.levels.get(name, ()):
                if count > removed:
                    yield self.allocation({**here.removed, name: count}, here.bits, here.blocks)
        for block in self.damage.blocks if blocks else ():
            if block not in here.blocks:
                yield self.without(here, block)
        if self.cost.minimize == "macs":
            return
        for name, width in here.bits.items():
            for narrower in self.widths[self.widths.index(width) + 1 :]:
                yield self.allocation(here.removed, {**here.bits, name: narrower}, here.blocks)


def first_within(path: Sequence[Allocation], goal: float) -> Allocation:
    """The first allocation on the path that costs no more than `goal`; the cheapest one if none does."""
    return next((one for one in path if one.cost <= goal), path[-1])


def dearest_within(
    path: Sequence[Allocation], room: float, measured: Callable[[Allocation], float], scale: float
) -> Allocation | None:
    """The allocation next to those that cost more than `room`, found by halving; None if the cheapest costs more.

    Args:
        path: from an allocation that is known to cost more, to the cheapest one.
        room: what it may cost.
        measured: the true cost of an allocation.
        scale: true cost by predicted cost, as far as known: where to look first.
    """
    dear, fits = 0, len(path) - 1
    if not fits or measured(path[fits]) > room:
        return None
    middle = path.index(first_within(path, room / scale))
    while fits - dear > 1:
        if not dear < middle < fits:
            middle = (dear + fits) // 2
        if measured(path[middle]) <= room:
            fits = middle
        else:
            dear = middle
    return path[fits]
