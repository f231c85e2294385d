"""Channel labels carried through every op.

Every index of every parameter dimension has an id. A value carries *layers*: integer tensors of
ids that broadcast to the value's shape (size 1 along the dimensions where the ids do not change).
An element of the value disappears when any of its ids is removed. A weight `[O, I, k, k]` has one
layer along O and one along I; an activation usually has one, along its channels.

Ids that must be removed together are joined by edges; connected components are found at the end.
Id 0 stands for "must stay".
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .trace import Op, Trace, Value

FIXED = 0


@dataclass(frozen=True)
class Freeze:
    """Ids that must stay, and why."""

    ids: Tensor
    reason: str
    op: Op | None
    unsupported: bool = False


@dataclass
class Labels:
    """The ids of a trace while rules carry them from op to op."""

    trace: Trace
    windows: set[str] = field(default_factory=set)
    """Weights of convolutions: only their first two dimensions are channels."""
    layers: dict[Value, list[Tensor]] = field(default_factory=dict)
    first: dict[tuple[str, int], int] = field(default_factory=dict)
    """(parameter, dimension) → id of its index 0; the ids of a dimension are consecutive."""
    padded: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    """(module, position in its `padding`) → ids of the channels of zeros that it puts there."""
    weights: set[Value] = field(default_factory=set)
    """Values computed from parameters alone."""
    sources: list[Tensor] = field(default_factory=list)
    """Ids of channels that some layer computes: what may be removed."""
    frozen: list[Freeze] = field(default_factory=list)
    grids: list[tuple[Value, Tensor]] = field(default_factory=list)
    """Layers that vary along several dimensions: what is kept of them must be a rectangular grid."""
    directions: set[str] = field(default_factory=set)
    """Parameters that are divided by their own length, which must not become zero."""
    across: dict[Op, Tensor] = field(default_factory=dict)
    """Norms that average over labelled channels → the layer of their input."""
    splits: list[Op] = field(default_factory=list)
    """Ops whose arguments may hold channel counts fixed in the user's code."""
    _edges: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _fixed: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Edges to id 0."""
    turned: set[Value] = field(default_factory=set)
    """Values whose grid keeps its second-best dimension free, since the forward does not allow the best."""
    _settled: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Edges that keep grids rectangular."""
    _unsupported: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Edges that are there only because an op has no rule."""
    _next: int = 1

    def __post_init__(self) -> None:
        for name, value in self.trace.parameters.items():
            self.weights.add(value)
            if not value.dtype.is_floating_point:
                continue
            own = []
            for dim, size in enumerate(value.shape):
                self.first[name, dim] = self._next
                if size > 1:
                    ids = self.fresh(size)
                    if dim < 2 or name not in self.windows:
                        own.append(along(ids, dim, len(value.shape)))
                else:
                    self._next += 1
            self.layers[value] = own

    @functools.cached_property
    def readers(self) -> dict[Value, list[Op]]:
        """Of each value the ops of both passes that read it."""
        return self.trace.consumers(self.trace.all_ops)

    def fresh(self, count: int) -> Tensor:
        """`count` new ids."""
        self._next += count
        return torch.arange(self._next - count, self._next)

    @property
    def count(self) -> int:
        """Number of ids, id 0 included."""
        return self._next

    def of(self, value: Value) -> list[Tensor]:
        """The layers of a value; none if nothing in it can be removed."""
        return self.layers.get(value, [])

    def set(self, value: Value, layers: Iterable[Tensor]) -> None:
        """Give `value` its layers; those that no longer vary are dropped."""
        kept = []
        for layer in map(compact, layers):
            assert layer.dim() == len(value.shape), (layer.shape, value.shape)
            varying = dims_of(layer)
            if varying:
                kept.append(layer)
            if len(varying) > 1 and value not in self.weights:
                self.grids.append((value, layer))
        self.layers[value] = kept

    def join(self, left: Tensor, right: Tensor) -> None:
        """Elements at the same place (after broadcasting) are removed together."""
        left, right = torch.broadcast_tensors(left, right)
        if left is not right:
            self._edges.append((left.reshape(-1), right.reshape(-1)))

    def join_over(self, layer: Tensor, dims: Iterable[int]) -> Tensor:
        """Join all ids along `dims`, and return the layer with those dimensions of size 1."""
        for dim in dims:
            if layer.shape[dim] > 1:
                first = layer.narrow(dim, 0, 1)
                self.join(first, layer)
                layer = first
        return layer

    def freeze(
        self, layers: Iterable[Tensor], reason: str, op: Op | None = None, *, unsupported: bool = False
    ) -> None:
        """These ids must stay."""
        for layer in layers:
            ids = layer.reshape(-1).unique()
            self.frozen.append(Freeze(ids, reason, op, unsupported))
            (self._unsupported if unsupported else self._fixed).append((ids, torch.zeros_like(ids)))

    def components(self, *, all_rules: bool = False, free: bool = False) -> Tensor:
        """For each id the smallest id it is joined with: 0 means that it must stay.

        Args:
            all_rules: as if every op had a rule.
            free: as if nothing had to stay.
        """
        root = torch.arange(self._next)
        edges = [*self._edges, *self._settled]
        if not free:
            edges += [*self._fixed, *([] if all_rules else self._unsupported)]
        if not edges:
            return root
        left, right = (torch.cat([edge[side] for edge in edges]) for side in (0, 1))
        if free:
            both = (left != FIXED) & (right != FIXED)
            left, right = left[both], right[both]
        while True:  # hook each root to the smallest root it meets, then shorten all paths
            ends = root[left], root[right]
            low, high = torch.minimum(*ends), torch.maximum(*ends)
            apart = low != high
            if not apart.any():
                return root
            left, right = left[apart], right[apart]
            root.scatter_reduce_(0, high[apart], low[apart], "amin")
            while not torch.equal(root, root[root]):
                root = root[root]

    def settle_grids(self) -> Tensor:
        """Join ids until what is kept of every value is a rectangular grid; return the components.

        One dimension of each grid stays free, the one with most independent ids: columns of a
        channel shuffle, whole heads where attention has already joined the dimensions of a head.
        """
        self._settled = []
        while True:
            component = self.components()
            pending = False
            for value, grid in self.grids:
                now = component[grid]
                varying = dims_of(compact(now))
                if len(varying) < 2:
                    continue
                best = sorted(varying, key=lambda dim: (_independent(now, dim), dim))
                free = best[-2] if value in self.turned else best[-1]
                for dim in dims_of(grid):
                    if dim != free:
                        first = grid.narrow(dim, 0, 1).expand_as(grid)
                        self._settled.append((first.reshape(-1), grid.reshape(-1)))
                        grid = grid.narrow(dim, 0, 1)  # noqa: PLW2901
                pending = True
            if not pending:
                return component


def _independent(grid: Tensor, free: int) -> int:
    """How many separate components stay along `free` when all other dimensions are joined."""
    rows = grid.movedim(free, 0).reshape(grid.shape[free], -1)
    root: dict[int, int] = {}

    def find(node: int) -> int:
        while root.setdefault(node, node) != node:
            node = root[node]
        return node

    for row in rows:
        members = row.unique().tolist()
        for other in members[1:]:
            root[find(other)] = find(members[0])
    return len({find(int(row[0])) for row in rows})


def along(ids: Tensor, dim: int, ndim: int) -> Tensor:
    """A one-dimensional tensor of ids as a layer that varies along `dim`."""
    return ids.reshape([-1 if d == dim else 1 for d in range(ndim)])


def dims_of(layer: Tensor) -> list[int]:
    """The dimensions along which a layer varies."""
    return [dim for dim, size in enumerate(layer.shape) if size > 1]


def compact(layer: Tensor) -> Tensor:
    """The same layer with size 1 along every dimension where its ids do not change."""
    for dim in dims_of(layer):
        first = layer.narrow(dim, 0, 1)
        if layer.stride(dim) == 0 or torch.equal(first.expand_as(layer), layer):
            layer = first
    return layer


def widen(layer: Tensor, dims: Iterable[int], shape: Sequence[int]) -> Tensor:
    """The layer at full size along `dims`."""
    dims = set(dims)
    return layer.expand([shape[d] if d in dims else size for d, size in enumerate(layer.shape)])


def align(layer: Tensor, ndim: int) -> Tensor:
    """The layer with dimensions of size 1 put in front, as broadcasting does."""
    return layer.reshape([1] * (ndim - layer.dim()) + list(layer.shape))


def reshape(layer: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """A layer of a value of shape `old` after a view as `new`, expanded only where it must be."""
    wide: list[int] = list(layer.shape)
    result = [1] * len(new)
    for olds, news in blocks(old, new):
        if any(layer.shape[d] > 1 for d in olds):
            for d in olds:
                wide[d] = old[d]
            for d in news:
                result[d] = new[d]
    return layer.expand(wide).reshape(result)


def blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Runs of old dimensions and the runs of new ones that hold the same elements."""
    left = [d for d, size in enumerate(old) if size != 1]
    right = [d for d, size in enumerate(new) if size != 1]
    blocks = []
    while left and right:
        olds, news = [left.pop(0)], [right.pop(0)]
        have, want = old[olds[0]], new[news[0]]
        while have != want:
            if have < want:
                olds.append(left.pop(0))
                have *= old[olds[-1]]
            else:
                news.append(right.pop(0))
                want *= new[news[-1]]
        blocks.append((olds, news))
    return blocks
