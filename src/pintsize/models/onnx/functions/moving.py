"""What moves values and computes nothing."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .sizes import tensor
from .table import creates, function, number, whole


@function
def reshape(x: Tensor, shape: Any, zeros_stay: bool = False) -> Tensor:
    """In another shape; a 0 stands for the size that is there (unless `zeros_stay`)."""
    sizes = whole(shape)
    if not zeros_stay:
        sizes = [x.shape[dim] if isinstance(one, int) and one == 0 else one for dim, one in enumerate(sizes)]
    return x.reshape(sizes)


@function
def flatten(x: Tensor, axis: int = 1) -> Tensor:
    """Two dimensions: all before `axis`, all from it on."""
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 1 and x.dim() > 1:
        return x.flatten(1)
    return x.reshape(1, -1) if axis == 0 else x.flatten(axis).flatten(0, axis - 1)


@function
def transpose(x: Tensor, order: Any = None) -> Tensor:
    """With dimensions in another order; without one: backwards."""
    return x.permute(tuple(range(x.dim()))[::-1] if order is None else tuple(order))


@function
def squeeze(x: Tensor, axes: Any = None) -> Tensor:
    """Without dimensions of size one."""
    return x.squeeze() if axes is None else x.squeeze(tuple(whole(axes)))


@function
def unsqueeze(x: Tensor, axes: Any) -> Tensor:
    """With dimensions of size one more."""
    axes = whole(axes)
    rank = x.dim() + len(axes)
    for axis in sorted(one % rank for one in axes):
        x = x.unsqueeze(axis)
    return x


@function
def concat(*parts: Any, axis: int) -> Tensor:
    """One behind the other; what is there once is repeated for each image of the others."""
    like = next(one for one in parts if isinstance(one, Tensor))
    parts = tuple(one if isinstance(one, Tensor) else tensor(one, device=like.device) for one in parts)
    if axis % like.dim() != 0:
        count = next((one.shape[0] for one in parts if one.shape[0] != 1), 1)
        parts = tuple(one if one.shape[0] != 1 else one.expand(count, *one.shape[1:]) for one in parts)
    return torch.cat(parts, axis)


@function
def split(x: Tensor, parts: Any, axis: int = 0) -> tuple[Tensor, ...]:
    """In parts of these sizes."""
    return torch.split(x, whole(parts), axis)


@function
def split_evenly(x: Tensor, count: int, axis: int = 0) -> tuple[Tensor, ...]:
    """In so many parts, the last of which may be smaller."""
    return torch.split(x, -(-x.shape[axis] // count), axis)


@function
def slice_(x: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    """From one place to another, along several dimensions; backwards where a step is negative."""
    starts, ends = whole(starts), whole(ends)
    axes = list(range(len(starts))) if axes is None else whole(axes)
    steps = [1] * len(starts) if steps is None else whole(steps)
    for axis, start, end, step in zip([one % x.dim() for one in axes], starts, ends, steps, strict=True):
        if step > 0:
            bounds = [None if _whole_way(one) else one for one in (start, end)]
            chosen = slice(bounds[0], bounds[1], step)
            x = x[(slice(None),) * axis + (chosen,)]
        else:
            numbers = range(*slice(start, None if end < -x.shape[axis] else end, step).indices(x.shape[axis]))
            x = x.index_select(axis, torch.tensor([*numbers], device=x.device))
    return x


def _whole_way(place: Any) -> bool:
    return isinstance(place, int) and place >= 2**31 - 1


@function
def gather(x: Tensor, index: Any, axis: int = 0) -> Tensor:
    """Entries by number along one dimension."""
    index = number(index) if not isinstance(index, Tensor) else index
    if isinstance(index, int | torch.SymInt):
        return x.select(axis, index)
    if not isinstance(index, Tensor):
        index = tensor(index, device=x.device)
    index = torch.where(index < 0, index + x.shape[axis], index)
    if index.dim() == 1:
        return x.index_select(axis, index)
    axis = axis % x.dim()
    return x.index_select(axis, index.reshape(-1)).reshape(
        *x.shape[:axis], *index.shape, *x.shape[axis + 1 :]
    )


@function
def gather_elements(x: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    """One entry for each number, at its own place along the other dimensions."""
    return torch.gather(x, axis, torch.where(index < 0, index + x.shape[axis], index))


@function
def gather_nd(x: Tensor, index: Tensor, batch_dims: int = 0) -> Tensor:
    """Entries or parts by the numbers in the last dimension of `index`."""
    if batch_dims:
        count = index.shape[:batch_dims]
        made = [
            gather_nd(a, b)
            for a, b in zip(x.flatten(0, batch_dims - 1), index.flatten(0, batch_dims - 1), strict=True)
        ]
        stacked: Tensor = torch.stack(made).unflatten(0, count)
        return stacked
    return x[tuple(index.unbind(-1))]


@function
def scatter_elements(
    x: Tensor, index: Tensor, updates: Tensor, axis: int = 0, reduction: str = "none"
) -> Tensor:
    """With some entries replaced, or added to."""
    index = torch.where(index < 0, index + x.shape[axis], index)
    if reduction == "none":
        return torch.scatter(x, axis, index, updates)
    how = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}[reduction]
    return torch.scatter_reduce(x, axis, index, updates, how)


@function
def scatter_nd(x: Tensor, index: Tensor, updates: Tensor, reduction: str = "none") -> Tensor:
    """With parts replaced, or added to."""
    made = x.clone()
    return made.index_put(tuple(index.unbind(-1)), updates, accumulate=reduction == "add")


@function
def expand(x: Any, shape: Any, device: torch.device | None = None) -> Tensor:
    """Repeated along dimensions of size one, both ways."""
    x = x if isinstance(x, Tensor) else tensor(x, device=device)
    sizes = whole(shape)
    lead = max(x.dim() - len(sizes), 0)
    sizes = [*x.shape[:lead], *sizes]
    behind = [*[1] * (len(sizes) - x.dim()), *x.shape]
    made: Tensor = x.expand(
        [own if isinstance(one, int) and one == 1 else one for own, one in zip(behind, sizes, strict=True)]
    )
    return made


@function
def tile(x: Tensor, counts: Any) -> Tensor:
    """Repeated whole."""
    return x.repeat(whole(counts))


@function
def pad(x: Tensor, pads: Any, mode: str = "constant", value: Any = 0.0, axes: Any = None) -> Tensor:
    """With values around; negative numbers take away."""
    pads = whole(pads)
    axes = list(range(x.dim())) if axes is None else [one % x.dim() for one in whole(axes)]
    begin, end = pads[: len(axes)], pads[len(axes) :]
    around = {axis: (a, b) for axis, a, b in zip(axes, begin, end, strict=True)}
    flat: list[Any] = []
    for axis in reversed(range(x.dim())):
        flat += around.get(axis, (0, 0))
    while len(flat) > 2 and all(isinstance(one, int) and one == 0 for one in flat[-2:]):
        flat = flat[:-2]
    kind = {"edge": "replicate", "wrap": "circular"}.get(mode, mode)
    if kind == "constant":
        return F.pad(x, flat, value=number(value) if value is not None else 0.0)
    few = x.dim() - len(flat) // 2  # torch wants one or two dimensions before those that it pads
    made = F.pad(x if few else x[None, None], flat, mode=kind)
    return made if few else made[0, 0]


@function
def depth_to_space(x: Tensor, block: int, mode: str = "DCR") -> Tensor:
    """From channels to places."""
    if mode == "CRD":
        return F.pixel_shuffle(x, block)
    batch, channels, height, width = x.shape
    made = x.reshape(batch, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return made.reshape(batch, channels // block**2, height * block, width * block)


@function
def space_to_depth(x: Tensor, block: int) -> Tensor:
    """From places to channels."""
    batch, channels, height, width = x.shape
    made = x.reshape(batch, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return made.reshape(batch, channels * block**2, height // block, width // block)


@function
def trilu(x: Tensor, k: Any = 0, upper: bool = True) -> Tensor:
    """The triangle above or below a diagonal."""
    k = int(number(k) or 0)
    return torch.triu(x, k) if upper else torch.tril(x, k)


@function
def one_hot(index: Tensor, depth: Any, values: Any, axis: int = -1) -> Tensor:
    """One of two values, where the number says."""
    depth = int(whole(depth)[0])
    off, on = values.unbind() if isinstance(values, Tensor) else values
    index = torch.where(index < 0, index + depth, index).long()
    places = torch.arange(depth, device=index.device)
    same = index.unsqueeze(axis) == places.reshape(
        [-1 if d == axis % (index.dim() + 1) else 1 for d in range(index.dim() + 1)]
    )
    return torch.where(
        same, torch.as_tensor(on, device=index.device), torch.as_tensor(off, device=index.device)
    )


@creates
def fill(shape: Any, value: Any, dtype: str, device: torch.device | None = None) -> Tensor:
    """One value in a shape."""
    return torch.full(whole(shape), value, dtype=getattr(torch, dtype), device=device)


@creates
def arange(start: Any, end: Any, step: Any, dtype: str, device: torch.device | None = None) -> Tensor:
    """Numbers from one to another."""
    start, end, step = (number(one) for one in (start, end, step))
    start, end, step = (one.item() if isinstance(one, Tensor) else one for one in (start, end, step))
    return torch.arange(start, end, step, dtype=getattr(torch, dtype), device=device)


@function
def reverse_sequence(x: Tensor, lengths: Any, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """The first entries of each sequence backwards."""
    x = x.movedim((time_axis, batch_axis), (0, 1))
    lengths = torch.as_tensor(whole(lengths), device=x.device)
    steps = torch.arange(x.shape[0], device=x.device)[:, None]
    index = torch.where(steps < lengths, lengths - 1 - steps, steps)
    made = torch.gather(x, 0, index.reshape(*index.shape, *[1] * (x.dim() - 2)).expand_as(x))
    return made.movedim((0, 1), (time_axis, batch_axis))


@function
def same(x: Tensor) -> Tensor:
    """Itself, under another name."""
    return x


@function
def fold(x: Tensor, size: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Tensor:
    """Patches put back where they were."""
    return F.fold(x, tuple(whole(size)), tuple(whole(kernel)), dilation, padding, stride)
