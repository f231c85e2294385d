"""Ratios per block of a network, as ratios of its channel groups: channels that are coupled go once."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence

from torch import nn

from ...errors import InputError, unknown
from ...graph import ChannelGroup
from ..patterns import matches

COMBINE = ("max", "compound")


def blocks(model: nn.Module) -> list[str]:
    """Paths of the blocks: the smallest modules that hold several convolutions (residual blocks and the like).

    In a network without such modules each convolution is a block. Plain containers are none.
    """
    convolutions = [p for p, m in model.named_modules() if isinstance(m, nn.modules.conv._ConvNd)]
    found = []
    for path, module in model.named_modules():
        inside = [p for p in convolutions if p.startswith(f"{path}.")]
        if path and len(inside) > 1 and not isinstance(module, nn.Sequential | nn.ModuleList):
            found.append(path)
    smallest = [path for path in found if not any(other.startswith(f"{path}.") for other in found)]
    if len(smallest) < 2 and all(
        len([p for p in convolutions if p.startswith(f"{b}.")]) > len(convolutions) / 2 for b in smallest
    ):
        return convolutions  # one such module is the network's body
    return smallest


def block_ratios(model: nn.Module, ratios: Sequence[float] | Mapping[str, float]) -> dict[str, float]:
    """Block → ratio: a list gives them in the network's order, a mapping by shell patterns of layer paths.

    Raises:
        InputError: their number is not that of the blocks, a pattern matches nothing, or a ratio is not in [0, 1).
    """
    if isinstance(ratios, Mapping):
        paths = [path for path, _ in model.named_modules()]
        for pattern in ratios:
            if not fnmatch.filter(paths, pattern):
                raise InputError(f"ratios[{pattern!r}]", "it matches no module", "see model.named_modules()")
        given = dict(ratios)
    else:
        names = blocks(model)
        if len(ratios) != len(names):
            raise InputError(
                f"{len(ratios)} ratios", f"{type(model).__name__} has {len(names)} blocks: {', '.join(names[:4])} …",
                "give one ratio for each block, or a mapping of layer patterns",
            )  # fmt: skip
        given = dict(zip(names, ratios, strict=True))
    for name, ratio in given.items():
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio < 1:
            cause = "the block would vanish" if ratio == 1 and ratio is not True else "a ratio lies in [0, 1)"
            raise InputError(
                f"ratio {ratio!r} of {name!r}", cause, "0.3 removes 30 % of the filters each round"
            )
    if not any(given.values()):
        raise InputError("ratios", "all are 0, so nothing would be removed", "raise one")
    return given


def group_ratios(
    groups: Sequence[ChannelGroup], given: Mapping[str, float], *, combine: str = "max"
) -> dict[str, float]:
    """First layer of each channel group → the fraction that makes it lose `⌊ratio · units⌋`.

    Args:
        groups: of the network as it is.
        given: block path or pattern → ratio.
        combine: for a group that runs through several blocks: `max`, the largest of their ratios, or `compound`,
            what is removed when each block in turn takes its share of what the one before it left.
    """
    if combine not in COMBINE:
        raise unknown("combine", combine, COMBINE)
    found = {}
    for group in groups:
        own = [r for name, r in given.items() if any(matches(layer, name) for layer in group.layers)]
        if not own:
            continue
        ratio = max(own) if combine == "max" else 1 - math.prod(1 - r for r in own)
        count = min(math.floor(ratio * group.size + 1e-9), group.size - 1)
        if count:
            found[group.layers[0]] = count / group.size
    return found
