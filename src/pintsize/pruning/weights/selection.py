"""Which weights are kept, given their scores: exactly as many as asked for, ties by position."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InputError, unknown

SCOPES = ("global", "local")
Masks = dict[str, Tensor]


@dataclass(frozen=True)
class Pattern:
    """The shape in which weights go: single ones, N of every M, or blocks."""

    kind: str
    """`element`, `n:m` or `block`."""
    first: int = 1
    """N, or the block's output channels."""
    second: int = 1
    """M, or the block's input channels."""

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read a pattern.

        `element`; `2:4`: at most 2 of 4 neighbouring input channels are kept; `4x1`: blocks of 4 output by
        1 input channels, at each kernel position.

        Raises:
            InputError: it is none of these.
        """
        if text == "element":
            return cls("element")
        found = re.fullmatch(r"(\d+)([:x])(\d+)", str(text))
        if found is None:
            raise InputError(
                f"pattern {text!r}", "there is no such pattern", "use 'element', N:M such as '2:4', or RxC such as '4x1'"
            )  # fmt: skip
        first, second = int(found[1]), int(found[3])
        if found[2] == ":" and not 0 < first < second:
            raise InputError(f"pattern {text!r}", "it keeps none or all weights", "N must be from 1 to M − 1")
        if found[2] == "x" and min(first, second) < 1:
            raise InputError(f"pattern {text!r}", "the block holds no weight", "use sizes of 1 or more")
        return cls("n:m" if found[2] == ":" else "block", first, second)

    def __str__(self) -> str:
        return "element" if self.kind == "element" else (":" if self.kind == "n:m" else "x").join(
            (str(self.first), str(self.second))
        )  # fmt: skip


def check_density(density: float | None, pattern: Pattern) -> None:
    """Raise unless `density` says how many weights to keep exactly when `pattern` does not."""
    if pattern.kind == "n:m":
        if density is not None:
            raise InputError(
                f"density={density} with pattern {pattern}", "the pattern says how many are kept", "leave out density"
            )  # fmt: skip
        return
    if isinstance(density, bool) or not isinstance(density, int | float) or not 0 < density < 1:
        reason = "it is no fraction"
        if density in (0, 1):
            reason = "nothing would be left" if density == 0 else "nothing would be removed"
        raise InputError(
            f"density={density!r}", reason, "pass the fraction of weights to keep, above 0 and below 1"
        )


def check_scope(scope: str) -> None:
    """Raise unless there is such a scope."""
    if scope not in SCOPES:
        raise unknown("scope", scope, SCOPES)


def choose(
    scores: Mapping[str, Tensor],
    alive: Mapping[str, Tensor],
    *,
    density: float,
    scope: str = "global",
    min_density: float = 0.0,
) -> Masks:
    """Single weights: the best `round(density · all)` are kept.

    Args:
        scores: parameter name → score of each weight.
        alive: bool, alike; what is removed already stays so.
        density: fraction of all weights (global), or of each layer's (local).
        scope: rank all weights together, or each layer's for itself.
        min_density: least fraction that each layer keeps.

    Raises:
        InputError: more are asked for than are left, or a layer would lose all of its weights.
    """
    names = list(scores)
    pools = [names] if scope == "global" else [[name] for name in names]
    masks: Masks = {}
    for pool in pools:
        sizes = [scores[name].numel() for name in pool]
        flat = torch.cat([_ranked(scores[name], alive[name]) for name in pool])
        left = int(torch.isfinite(flat).sum())
        target = _count(density, len(flat))
        where = f"density={density:g}" + ("" if scope == "global" else f" of {pool[0]!r}")
        if target > left:
            raise InputError(
                where, f"only {left} of {len(flat)} weights are left", "ask for less: what is removed stays removed"
            )  # fmt: skip
        if min_density > 0:
            _raise_floor(flat, sizes, min_density, target, where)
        kept = keep_top(flat, target)
        for name, part in zip(pool, kept.split(sizes), strict=True):
            masks[name] = part.reshape(scores[name].shape)
    require_nonempty(masks, f"density={density:g}")
    return masks


def choose_n_of_m(score: Tensor, alive: Tensor, pattern: Pattern, axis: int) -> Tensor | None:
    """N of every M neighbours along `axis`; None where M does not divide its size (the layer stays dense)."""
    size, M = score.shape[axis], pattern.second
    if size % M:
        return None
    rows = torch.where(alive, score, -math.inf).movedim(axis, -1)
    groups = rows.reshape(-1, M)
    order = torch.argsort(groups, dim=1, descending=True, stable=True)
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order[:, : pattern.first], True)
    return kept.reshape(rows.shape).movedim(-1, axis) & alive


def choose_blocks(
    scores: Mapping[str, Tensor], alive: Mapping[str, Tensor], axes: Mapping[str, tuple[int, int]],
    *, pattern: Pattern, density: float, scope: str = "global",
) -> Masks:  # fmt: skip
    """Whole blocks, ranked by their mean score: as many as come nearest to `density`, which is exact to half a block.

    Args:
        scores: parameter name → scores.
        alive: bool, alike.
        axes: parameter name → its output and input dimension.
        pattern: the block; at the end of a dimension that it does not divide, blocks are smaller.
        density: fraction of all weights, or of each layer's.
        scope: as for `choose`.
    """
    cut = {name: _Blocks(scores[name], alive[name], axes[name], pattern) for name in scores}
    names = list(scores)
    masks: Masks = {}
    for pool in [names] if scope == "global" else [[name] for name in names]:
        means = torch.cat([cut[name].means.reshape(-1) for name in pool])
        sizes = torch.cat([cut[name].sizes.reshape(-1) for name in pool])
        target = _count(density, int(sum(scores[name].numel() for name in pool)))
        order = torch.argsort(means, descending=True, stable=True)
        total = torch.cumsum(sizes[order].double(), 0)
        count = 1 + int(torch.argmin((total - target).abs()))
        kept = torch.zeros(len(means), dtype=torch.bool, device=means.device)
        kept[order[:count]] = True
        for name, part in zip(pool, kept.split([cut[n].means.numel() for n in pool]), strict=True):
            masks[name] = cut[name].spread(part) & alive[name]
    require_nonempty(masks, f"density={density:g}")
    return masks


class _Blocks:
    """A weight cut into blocks of output by input channels, at each kernel position."""

    def __init__(self, score: Tensor, alive: Tensor, axes: tuple[int, int], pattern: Pattern) -> None:
        self._axes, self._r, self._c = axes, pattern.first, pattern.second
        matrix = self._matrix(torch.where(alive, score, 0.0).double())
        count = self._sum(torch.ones_like(matrix))
        lives = self._sum(self._matrix(alive.double()))
        self.sizes = lives
        self.means = torch.where(lives > 0, self._sum(matrix) / count, -math.inf)
        self._shape = matrix.shape
        self._tail = score.movedim(axes, (0, 1)).shape

    def _matrix(self, tensor: Tensor) -> Tensor:
        return tensor.movedim(self._axes, (0, 1)).flatten(2) if tensor.dim() > 2 else tensor.movedim(
            self._axes, (0, 1)
        ).unsqueeze(2)  # fmt: skip

    def _sum(self, matrix: Tensor) -> Tensor:
        O, I = matrix.shape[:2]  # noqa: E741 (the field's letters)
        padded: Tensor = F.pad(matrix, (0, 0, 0, -I % self._c, 0, -O % self._r))
        blocks: Tensor = padded.unflatten(0, (-1, self._r)).unflatten(2, (-1, self._c))
        return blocks.sum((1, 3))

    def spread(self, kept: Tensor) -> Tensor:
        """The weights of the kept blocks, shaped like the weight."""
        O, I, _ = self._shape  # noqa: E741
        wide = kept.reshape(self.means.shape).repeat_interleave(self._r, 0).repeat_interleave(self._c, 1)
        return wide[:O, :I].reshape(self._tail).movedim((0, 1), self._axes)


def keep_top(scores: Tensor, count: int) -> Tensor:
    """True for the `count` largest of `scores` [n]; of equal ones the first."""
    kept = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    if count <= 0:
        return kept
    if count >= len(scores):
        return ~kept
    threshold = torch.kthvalue(scores, len(scores) - count + 1).values
    above = scores > threshold
    ties = (scores == threshold).nonzero().reshape(-1)
    above[ties[: count - int(above.sum())]] = True
    return above


def require_nonempty(masks: Mapping[str, Tensor], what: str) -> None:
    """Raise if a layer keeps nothing.

    Raises:
        InputError: it names the layer.
    """
    empty: Sequence[str] = [name for name, mask in masks.items() if not bool(mask.any())]
    if empty:
        raise InputError(
            what,
            f"{', '.join(map(repr, empty[:3]))} would lose all weights" + (" and more" if len(empty) > 3 else ""),
            "raise the density, set min_density, use scope='local', or name the layer in ignore",
        )  # fmt: skip


def _ranked(score: Tensor, alive: Tensor) -> Tensor:
    flat = score.reshape(-1)
    flat = flat if flat.dtype == torch.float64 else flat.float()
    return torch.where(alive.reshape(-1), flat, -math.inf)


def _count(density: float, total: int) -> int:
    return min(total, math.floor(density * total + 0.5))


def _raise_floor(flat: Tensor, sizes: list[int], min_density: float, target: int, where: str) -> None:
    """Put the best weights of each layer above all others, in place."""
    least = [math.ceil(min_density * size) for size in sizes]
    if sum(least) > target:
        raise InputError(
            f"min_density={min_density:g} with {where}",
            f"the layers' least weights are {sum(least)}, more than the {target} to keep",
            "lower min_density",
        )
    for part, count in zip(flat.split(sizes), least, strict=True):
        part[keep_top(part, count) & torch.isfinite(part)] = math.inf
