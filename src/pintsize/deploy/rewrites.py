"""Operations with options that a runtime lacks, or reads otherwise than torch, in terms of simpler ones; exact.

"Spatial" dimensions are the last one, two or three.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Rewrite = Callable[..., Any]
"""Takes an operation's arguments; gives its result, or NotImplemented where the operation is fine as it is."""
_aten = torch.ops.aten


@torch.library.custom_op("pintsize::constant", mutates_args=())
def constant(values: list[float], shape: list[int]) -> Tensor:
    """A tensor of the operation's own arguments: what a rewrite has worked out beforehand."""
    return torch.tensor(values).reshape(shape)


@constant.register_fake
def _(values: list[float], shape: list[int]) -> Tensor:  # noqa: ARG001
    return torch.empty(shape)


def rewritten(
    program: torch.export.ExportedProgram, *, exact_scales: bool = True
) -> torch.export.ExportedProgram:
    """The program with every such operation replaced; the program itself if it has none.

    Args:
        program: as `torch.export.export` gives it, before any decomposition.
        exact_scales: the runtime resizes by the factor that torch does, not by the quotient of the sizes.
    """
    resizes = {target: Resize(target) for target in _RESIZES}
    if not exact_scales:
        resizes |= {target: Resize(target, fine=_whole) for target in _SCALED}
    table: dict[Any, Rewrite] = {
        _aten.pad.default: pad,
        **{getattr(_aten, f"avg_pool{dims}d").default: average_pool(dims) for dims in (1, 2, 3)},
        **resizes,
    }
    nodes = list(program.graph.nodes)
    places = (node for node in nodes if node.target is operator.getitem and node.args[1] == 1 and node.users)
    if not any(node.args[0].target in _MAXIMA for node in places):  # they are not worked out
        table |= dict.fromkeys(_MAXIMA, adaptive_maximum)
    found = [node for node in nodes if node.target in table]
    for node in found:
        if node.target in resizes:
            resizes[node.target].prepare(node.args[0].meta["val"].shape, *node.args[1:])
    return program.run_decompositions(table) if found else program


def pad(x: Tensor, amounts: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Negative amounts are slices; circular padding is a concatenation of slices."""
    if mode != "circular" and min(amounts, default=0) >= 0:
        return NotImplemented
    for dim, before, after in _by_dimension(x, amounts):
        if min(before, after) < 0:
            start = max(-before, 0)
            x = x.narrow(dim, start, x.shape[dim] - start - max(-after, 0))
    grown = [max(amount, 0) for amount in amounts]
    if mode != "circular":
        return functional.pad(x, grown, mode, value) if any(grown) else x
    for dim, before, after in _by_dimension(x, grown):
        size = x.shape[dim]
        ends = [x.narrow(dim, size - before, before)] if before else []
        starts = [x.narrow(dim, 0, after)] if after else []
        x = torch.cat([*ends, x, *starts], dim) if ends or starts else x
    return x


def _by_dimension(x: Tensor, amounts: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Dimension, amount before, amount after: `amounts` begin with the last dimension."""
    for place, (before, after) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
        yield x.dim() - 1 - place, before, after


def average_pool(dims: int) -> Rewrite:
    """Pools with `ceil_mode` or a divisor of their own, of `dims` spatial dimensions, as plain ones × a factor.

    torch divides the sum of a window that hangs over the edge of the padded image by how much of it lies inside;
    ONNX, OpenVINO and ONNX Runtime's integer kernel each divide by something else.
    """

    def rewrite(
        x: Tensor,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        pool = getattr(functional, f"avg_pool{dims}d")
        kernel, padding = _each(kernel, dims), _each(padding, dims)
        stride = _each(stride, dims) if len(stride) else kernel
        windows = [
            _Windows(size, length, step, margin, ceil_mode)
            for size, length, step, margin in zip(x.shape[-dims:], kernel, stride, padding, strict=True)
        ]
        if not any(window.overhang for window in windows) and divisor_override is None:
            return pool(x, kernel, stride, padding, False, count_include_pad) if ceil_mode else NotImplemented
        sides = [(window.padding, window.padding + window.overhang) for window in reversed(windows)]
        amounts = [*itertools.chain(*sides)]
        mean = pool(functional.pad(x, amounts) if any(amounts) else x, kernel, stride)
        if divisor_override is not None:
            return mean * (math.prod(kernel) / divisor_override)
        counts = [window.counts(include_pad=count_include_pad) for window in windows]
        factors = [math.prod(kernel) / math.prod(count) for count in itertools.product(*counts)]
        if len(set(factors)) == 1:
            return mean * factors[0]
        return mean * torch.ops.pintsize.constant(factors, [window.number for window in windows])

    return rewrite


class _Windows:
    """Where the windows of a pool lie along one dimension."""

    def __init__(self, size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> None:
        self.size, self.kernel, self.stride, self.padding = size, kernel, stride, padding
        room = size + 2 * padding - kernel
        self.number = (-(-room // stride) if ceil_mode else room // stride) + 1
        if ceil_mode and (self.number - 1) * stride >= size + padding:
            self.number -= 1  # torch leaves out a window that begins behind the image
        self.overhang = max((self.number - 1) * stride - room, 0)

    def counts(self, *, include_pad: bool) -> list[int]:
        """How many places of each window lie in the image, or in the padded image."""
        low, high = (-self.padding, self.size + self.padding) if include_pad else (0, self.size)
        starts = [number * self.stride - self.padding for number in range(self.number)]
        return [min(start + self.kernel, high) - max(start, low) for start in starts]


def adaptive_maximum(x: Tensor, size: Sequence[int]) -> Any:
    """Maxima of slices of unequal length, one dimension after the other; which places they are at is not told.

    ONNX has a maximum over windows of one size alone.
    """
    dims = len(size)
    pool = getattr(functional, f"max_pool{dims}d")
    sides = list(zip(x.shape[-dims:], size, strict=True))
    if all(side % number == 0 for side, number in sides):
        x = pool(x, [side // number for side, number in sides])
        return x, torch.zeros_like(x, dtype=torch.int64)
    for place, number in enumerate(size):
        dim = x.dim() - dims + place
        length = x.shape[dim]
        bounds = [(at * length // number, -(-(at + 1) * length // number)) for at in range(number)]
        slices = [x.narrow(dim, low, high - low) for low, high in bounds]
        windows = [[part.shape[dim] if at == place else 1 for at in range(dims)] for part in slices]
        x = torch.cat([pool(part, window) for part, window in zip(slices, windows, strict=True)], dim)
    return x, torch.zeros_like(x, dtype=torch.int64)


class Resize:
    """A resize as a matrix product for each side: it is linear and separable.

    What `fine(shape, *options)` says is left alone.
    The matrices are what the operation itself makes of single rows and columns of ones.
    """

    def __init__(self, target: Any, fine: Callable[..., bool] = lambda *_: False) -> None:
        self.target, self.fine = target, fine
        self.matrices: dict[str, tuple[list[list[float]], ...]] = {}

    def prepare(self, shape: Sequence[int], *options: Any) -> None:
        """Work out the matrices for an input of this shape: not possible while a graph is recorded."""
        height, width = (int(side) for side in shape[-2:])
        rows = self.target(torch.eye(height)[:, None, :, None].repeat(1, 1, 1, width), *options)
        columns = self.target(torch.eye(width)[:, None, None, :].repeat(1, 1, height, 1), *options)
        self.matrices[_key(height, width, options)] = (
            rows[:, 0, :, 0].T.tolist(),
            columns[:, 0, 0, :].tolist(),
        )

    def __call__(self, x: Tensor, *options: Any) -> Any:
        """Rows from the left, columns from the right."""
        if self.fine(x.shape, *options):
            return NotImplemented
        rows, columns = self.matrices[_key(x.shape[-2], x.shape[-1], options)]
        return _stored(rows) @ (x @ _stored(columns))


def _key(height: int, width: int, options: tuple[Any, ...]) -> str:
    return repr((int(height), int(width), *options))


def _stored(matrix: list[list[float]]) -> Tensor:
    stored: Tensor = torch.ops.pintsize.constant([*itertools.chain(*matrix)], [len(matrix), len(matrix[0])])
    return stored


def _whole(shape: Sequence[int], size: Sequence[int] | None, _: bool, factors: Any = None) -> bool:
    """Whether a resize's factors are the quotients of its sizes, too."""
    sides = zip(shape[-2:], factors or (), strict=False)
    return size is not None or all(float(side * factor).is_integer() for side, factor in sides)


def _each(numbers: Sequence[int], dims: int) -> list[int]:
    return [*numbers] * dims if len(numbers) == 1 else [*numbers]


_MAXIMA = [
    _aten.adaptive_max_pool1d.default,
    _aten.adaptive_max_pool2d.default,
    _aten.adaptive_max_pool3d.default,
]
_RESIZES = [
    getattr(getattr(_aten, f"_upsample_{mode}2d_aa"), overload)
    for mode in ("bilinear", "bicubic")
    for overload in ("default", "vec")
]
_SCALED = [_aten.upsample_bilinear2d.vec]
