"""Where attention vectors go: which channels of which convolutions each of them scales.

A convolution that is not depthwise *owns* its output channels; all owners of a channel group share one
vector, or (the report's form) each owner has its own.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...graph import ChannelGroup, Graph, Removed, Trace
from ...graph.groups import Member, union
from ...quant.network.flow import build
from ...quant.network.fold import foldable
from ...recipe.attention import AttentionOptions
from ..channels import costs
from ..patterns import matches


@dataclass(frozen=True)
class Target:
    """The channels of one convolution that the units of a vector stand for."""

    layer: str
    """Path of the convolution."""
    axis: int
    """The dimension of its weight that counts output channels."""
    channels: int
    """How many it has."""
    indices: Tensor
    """[U, k]: unit u stands for these k channels."""
    norm: str | None
    """Path of the batch norm that alone reads it."""


@dataclass(frozen=True)
class Site:
    """One attention vector: its name, and what it scales."""

    name: str
    """Of the first convolution."""
    units: int
    targets: tuple[Target, ...]
    price: float
    """Weight of one unit in the penalty; 1 on average over all units."""


def find(model: nn.Module, graph: Graph, options: AttentionOptions) -> list[Site]:
    """The vectors for `model`, in the order of its layers.

    Raises:
        InputError: no convolution is left to attend to, or a pattern in `ignore` matches nothing.
    """
    norms = foldable(build(graph.trace, model), model)
    paths = [path for path, _ in model.named_modules()]
    for pattern in options.ignore:
        if not fnmatch.filter(paths, pattern):
            raise InputError(
                f"ignore={pattern!r}", "it matches no layer", "see pintsize.channel_groups(model, example)"
            )
    first = first_convolution(model, graph.trace)
    found: dict[str, Site] = {}
    for group in graph.groups:
        members = owners(model, group)
        layers = [_layer(member) for member in members]
        kept = [layer for layer in layers if any(matches(layer, p) for p in options.ignore)]
        if options.keep_first and first in layers:
            kept += layers if options.per == "group" else layers[layers.index(first) :][:1]
        if options.per == "group":
            if members and not kept:
                name = group.name if group.name not in found else f"{group.name}#{len(found)}"
                found[name] = _site(name, members, norms, model)
            continue
        for layer, member in zip(layers, members, strict=True):
            if layer not in kept and layer not in found:
                found[layer] = _site(layer, [_whole(model, layer, member)], norms, model)
    if not found:
        raise InputError(
            f"attention on {type(model).__name__}",
            "it has no convolution whose channels may be removed",
            "ignore less, or pass keep_first=False",
        )
    place = {path: number for number, path in enumerate(paths)}
    ordered = sorted(found.values(), key=lambda site: place[site.targets[0].layer])
    return _priced(ordered, graph, options)


def first_convolution(model: nn.Module, trace: Trace) -> str | None:
    """Path of the convolution that runs first, wherever it is registered; None if there is none."""
    convolutions = {
        f"{path}.weight": path
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd)
    }
    named = costs.weight_names(trace)
    read = (named.get(value) for op in trace.ops for value in op.inputs)
    return next((convolutions[name] for name in read if name in convolutions), None)


def owners(model: nn.Module, group: ChannelGroup) -> list[Member]:
    """The weights that compute the channels of `group`, if all are of convolutions; depthwise ones only pass on."""
    found = []
    for member in group.members:
        module = model.get_submodule(_layer(member))
        convolution = isinstance(module, nn.modules.conv._ConvNd)
        if not member.produces or (convolution and 1 < module.groups == module.in_channels):  # type: ignore[operator]
            continue
        if not convolution or member.parameter.rpartition(".")[2] != "weight":
            return []
        if getattr(module, "transposed", False) and module.groups > 1:  # type: ignore[operator]
            return []  # a row of its weight makes a channel in each group
        found.append(member)
    return found


def _layer(member: Member) -> str:
    return member.parameter.rpartition(".")[0]


def _whole(model: nn.Module, layer: str, member: Member) -> Member:
    """All output channels of a convolution, each its own unit."""
    channels = int(model.get_submodule(layer).out_channels)  # type: ignore[arg-type]
    return Member(member.parameter, member.dim, torch.arange(channels)[:, None], produces=True)


def _site(name: str, members: Sequence[Member], norms: Mapping[str, str], model: nn.Module) -> Site:
    targets = []
    for member in members:
        layer = _layer(member)
        channels = int(model.get_submodule(layer).out_channels)  # type: ignore[arg-type]
        targets.append(Target(layer, member.dim, channels, member.indices, norms.get(layer)))
    return Site(name, len(members[0].indices), tuple(targets), 1.0)


def _priced(sites: list[Site], graph: Graph, options: AttentionOptions) -> list[Site]:
    """The sites with the price of a unit: what its layers' own weights cost, 1 on average."""
    if options.price == "channels":
        return sites
    cost = costs.parameters(graph.trace) if options.price == "params" else costs.macs(graph.trace)
    whole = {name: tuple(value.shape) for name, value in graph.trace.parameters.items()}
    full = cost(whole)
    raw = []
    for site in sites:
        names = {target.layer for target in site.targets}
        group = next((g for g in graph.groups if names & set(g.layers)), None)
        if group is not None and options.per == "group":
            saved = full - cost(costs.kept_shapes(graph, [group], [1]))
        else:
            saved = full
            shapes = dict(whole)
            for target in site.targets:
                shape = list(whole[f"{target.layer}.weight"])
                shape[target.axis] -= target.indices.shape[1]
                shapes[f"{target.layer}.weight"] = tuple(shape)
            saved -= cost(shapes)
        raw.append(saved)
    mean = sum(s * site.units for s, site in zip(raw, sites, strict=True)) / sum(s.units for s in sites)
    return [Site(s.name, s.units, s.targets, price / mean) for s, price in zip(sites, raw, strict=True)]


def silent(
    model: nn.Module, graph: Graph, sites: Sequence[Site], kept: Sequence[Tensor]
) -> tuple[Removed, list[list[int]]]:
    """What is zero once units are removed, and what of it can be cut.

    Args:
        model: the network that `graph` was made of.
        graph: with the groups.
        sites: the vectors.
        kept: for each of them which units are left, bool [U].

    Returns:
        The slices of parameters that are zero; and for each group of `graph` the units that no layer
        computes any more, the first of them left out where they are all.
    """
    gone: dict[str, Tensor] = {}
    for site, left in zip(sites, kept, strict=True):
        for target in site.targets:
            mask = gone.setdefault(target.layer, torch.zeros(target.channels, dtype=torch.bool))
            mask[target.indices[~left.cpu()].reshape(-1)] = True
    physical: list[list[int]] = []
    parts: list[Removed] = []
    for group in graph.groups:
        members = owners(model, group)
        free = torch.full((group.size,), bool(members))
        for member in members:
            layer = _layer(member)
            if layer not in gone:
                free.zero_()
            else:
                free &= gone[layer][member.indices].all(1)
        units = free.nonzero().reshape(-1).tolist()
        physical.append(units[1:] if len(units) == group.size else units)
        if physical[-1]:
            parts.append(group.removed(physical[-1]))
    parts += [
        own_rows(model, target, gone[target.layer].nonzero().reshape(-1).tolist())
        for site in sites
        for target in site.targets
        if gone[target.layer].any()
    ]
    return union(parts), physical


def own_rows(model: nn.Module, target: Target, channels: list[int]) -> Removed:
    """The slices of a convolution and of the norm behind it that make `channels`, but for the constant they emit."""
    rows: Removed = {f"{target.layer}.weight": {target.axis: channels}}
    vectors = [f"{target.layer}.bias"]
    if target.norm is not None:
        vectors.append(f"{target.norm}.weight")
    own = dict(model.named_parameters(remove_duplicate=False))
    return rows | {name: {0: channels} for name in vectors if name in own}
