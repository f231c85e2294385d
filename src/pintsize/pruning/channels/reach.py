"""What pruning cannot reach: channels that must stay, why, and how much of the network that is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ...graph import Graph
from ..patterns import matches
from . import costs


def remedy(model: nn.Module) -> str:
    """What to do where no channel may go."""
    computed = any(key.endswith(("_orig", "_v")) for module in model.modules() for key in module._parameters)
    if computed or any("parametrizations" in module._modules for module in model.modules()):
        return (
            "make weights plain that are computed from others: remove_weight_norm, remove_spectral_norm, or "
            "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"
        )
    return "ignore less; sizes that are written into its forward cannot change"


def frozen_text(graph: Graph, ignore: Sequence[str]) -> str:
    """Which layers keep all their channels whatever is asked for, and why; nothing if none do."""
    kept = {
        layer: found
        for layer, found in graph.frozen().items()
        if not any(matches(layer, pattern) for pattern in ignore)
    }
    by_reason: dict[str, list[str]] = {}
    for layer, (_, reason) in kept.items():
        by_reason.setdefault(reason, []).append(layer or "(root)")
    if not kept:
        return ""
    parts = [
        f"{', '.join(layers[:3])}{f' and {len(layers) - 3} more' if len(layers) > 3 else ''} ({reason})"
        for reason, layers in sorted(by_reason.items(), key=lambda item: -len(item[1]))[:4]
    ]
    rest = f"; and {len(by_reason) - 4} more reasons" if len(by_reason) > 4 else ""
    channels = sum(count for count, _ in kept.values())
    return (
        f"{channels} channels of {len(kept)} layers must stay: {'; '.join(parts)}{rest}{_out_of_reach(graph)}"
    )


def _out_of_reach(graph: Graph) -> str:
    """The share of the MACs that is left where every channel goes that may."""
    price = costs.macs(graph.trace)
    groups = graph.groups
    least, most = (
        price(costs.kept_shapes(graph, groups, [share * group.size for group in groups])) for share in (1, 0)
    )
    return f"; {least / most:.0%} of the MACs are out of reach" if most and least > 0.005 * most else ""
