"""A network with attention on its layers: the vectors, what they have removed, and the plain values.

Only a copy of the user's network is ever changed so; the plain values go back into the original.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map

from ...graph import Graph, Removed
from ...quant.network.convert import WEIGHT
from ...recipe.attention import AttentionOptions
from ..channels import constants, costs
from ..channels.plan import add_bias
from . import sites as attention_sites
from .sites import Site, Target
from .vectors import ChannelAttention

_Part = tuple[ChannelAttention, Tensor]


class _Scaled(nn.Module):
    """Multiplies each output channel with its `Â`: a parametrization of weights and biases, or a hook."""

    def __init__(self, channels: int, parts: Sequence[_Part]) -> None:
        super().__init__()
        self.channels = channels
        self.vectors = nn.ModuleList(vector for vector, _ in parts)
        for number, (_, indices) in enumerate(parts):
            self.register_buffer(f"indices_{number}", indices, persistent=False)
        first = parts[0][1]
        self.whole = len(parts) == 1 and torch.equal(first.cpu(), torch.arange(channels)[:, None])
        """One vector, its units are the channels in order."""

    def factors(self) -> Tensor:
        """One factor per channel, [C]."""
        if self.whole:
            found: Tensor = self.vectors[0]()
            return found
        whole = self.vectors[0].attention.new_ones(self.channels)  # type: ignore[operator]
        for number, vector in enumerate(self.vectors):
            indices = self.get_buffer(f"indices_{number}")
            values = vector()[:, None].expand(indices.shape).reshape(-1)
            whole = whole.index_copy(0, indices.reshape(-1), values)
        return whole

    def along(self, x: Tensor, axis: int) -> Tensor:
        """The factors, shaped to multiply `x` along `axis`."""
        return self.factors().view([-1 if dim == axis else 1 for dim in range(x.dim())])


class _OnWeight(_Scaled):
    def __init__(self, channels: int, parts: Sequence[_Part], axis: int) -> None:
        super().__init__(channels, parts)
        self.axis = axis

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.along(weight, self.axis)


class _OnOutput(_OnWeight):
    def forward(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:  # type: ignore[override]
        return output * self.along(output, self.axis)


class Attended:
    """`model`, which gets attention in place.

    Args:
        model: a copy of the network, float, in which nothing is parametrized at these places.
        graph: made of it, or of the network before its batch norms were folded.
        sites: where vectors go.
        options: how they act.
        example: an input; None if batch norms are folded, and a silent channel leaves no constant.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        sites: Sequence[Site],
        options: AttentionOptions,
        *,
        example: Any = None,
    ) -> None:
        self.model, self.graph, self.sites, self.options = model, graph, list(sites), options
        self._example = tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, example)
        self.biases: list[str] = []
        """Layers that were given a bias, for the constants of removed channels that they read."""
        if example is not None and options.at == "convolution":
            self.biases = constants.without_place(model, graph)
        for path in self.biases:
            add_bias(model.get_submodule(path)).requires_grad_(False)
        self.constant_error = 0.0
        """Largest error, in standard deviations of a layer's output, that the last removal left where zero padding
        makes the constant of a channel vary over the image."""
        self._plain = copy.deepcopy(model).cpu()
        self._names = list(model.state_dict())
        generator = torch.Generator().manual_seed(options.seed)
        device = next(model.parameters()).device
        self.vectors = [
            ChannelAttention(
                site.units,
                normalize=options.normalize,
                percentile=options.percentile,
                start=options.start,
                generator=generator,
            ).to(device)
            for site in sites
        ]
        self._outputs: dict[str, _OnOutput] = {}
        self._hooked: dict[str, tuple[Target, list[_Part], Any]] = {}
        self._attach()
        self._cost = {"params": costs.parameters(graph.trace), "macs": costs.macs(graph.trace)}
        self._full = {name: tuple(value.shape) for name, value in graph.trace.parameters.items()}
        self._held: list[tuple[Tensor, int, Tensor]] = []
        self.refresh()

    def _attach(self) -> None:
        parts: dict[str, list[_Part]] = {}
        targets: dict[str, Target] = {}
        for site, vector in zip(self.sites, self.vectors, strict=True):
            for target in site.targets:
                norm = target.norm if self.options.at == "norm" and self._affine(target.norm) else None
                path = norm or target.layer
                parts.setdefault(path, []).append((vector, target.indices.to(vector.kept.device)))
                targets[path] = target
        for path, own in parts.items():
            module, target = self.model.get_submodule(path), targets[path]
            if self.options.on == "outputs":
                hook = self._outputs[path] = _OnOutput(target.channels, own, 1)
                self._hooked[path] = (target, own, module.register_forward_hook(hook))
                module.add_module("attention", hook)
                continue
            axis = target.axis if path == target.layer else 0
            for key, dim in (("weight", axis), ("bias", 0)):
                if isinstance(module._parameters.get(key), nn.Parameter):
                    scaled = _OnWeight(target.channels, own, dim)
                    parametrize.register_parametrization(module, key, scaled, unsafe=True)

    def quantized(self) -> None:
        """Go on with a network that has got quantizers: what scaled outputs scales quantized weights and biases.

        The results are the same, but a quantizer of such an output sees them scaled, as it will in the realised network.
        """
        for path, (target, parts, handle) in self._hooked.items():
            layer = self.model.get_submodule(path)
            if WEIGHT not in layer._modules:
                continue
            handle.remove()
            quantizer, hook = layer.get_submodule(WEIGHT), _OnOutput(target.channels, parts, target.axis)
            quantizer.register_forward_hook(hook)
            quantizer.add_module("attention", hook)
            if isinstance(layer._parameters.get("bias"), nn.Parameter):
                scaled = _OnWeight(target.channels, parts, 0)
                parametrize.register_parametrization(layer, "bias", scaled, unsafe=True)

    def _affine(self, norm: str | None) -> bool:
        return norm is not None and self.model.get_submodule(norm).weight is not None

    @property
    def kept(self) -> list[Tensor]:
        """For each vector the units that are left, bool [U] on the CPU."""
        return [vector.kept.cpu().clone() for vector in self.vectors]

    def refresh(self, *, fold: bool = False) -> None:
        """Take note of what the vectors have removed, after a removal or a load.

        Args:
            fold: first give the constants that channels which are cut emitted so far, through the bias of their
                norm, to the layers that read them. Other silent channels keep that bias.
        """
        self.removed, self.physical = attention_sites.silent(self._plain, self.graph, self.sites, self.kept)
        if fold and self._example is not None:
            self._fold_constants()
        self._held = []
        for name, dims in self.removed.items():
            parameter = self.original(name)
            if parameter is None:
                continue  # a running statistic: what a silent channel computes does not depend on it
            for dim, indices in dims.items():
                self._held.append((parameter, dim, torch.tensor(indices, device=parameter.device)))
        self.hold()

    @torch.no_grad()
    def _fold_constants(self) -> None:
        plain = copy.deepcopy(self._plain)
        plain.load_state_dict(self.values())
        cut = removed_units(self.graph, self.cut())
        folding = constants.find(plain, self._example, self.graph, cut)
        self.constant_error = max(folding.errors.values(), default=0.0)
        for path, shift in folding.shifts.items():
            axis = 1 if getattr(plain.get_submodule(path), "transposed", False) else 0
            gone = set(cut.get(f"{path}.weight", {}).get(axis, ()))
            size = len(shift) + len(gone)
            keep = torch.tensor([c for c in range(size) if c not in gone], device=shift.device)
            if path in folding.norms:
                place = self.model.get_buffer(folding.norms[path])
                place.index_add_(0, keep.to(place.device), -shift.to(place.device))
                continue
            bias = self.original(f"{path}.bias")
            assert bias is not None  # each layer without a norm has one
            keep, own, factors = keep.to(bias.device), shift.to(bias.device), self.bias_factors(path)
            if factors is not None:  # a channel without attention gives nothing, constants neither
                own = torch.where(factors[keep] > 0, own / factors[keep], 0.0)
            bias.index_add_(0, keep, own)

    def bias_factors(self, path: str) -> Tensor | None:
        """`Â` of the channels of a layer whose bias it scales, [C]; None for other layers."""
        module = self.model.get_submodule(path)
        if parametrize.is_parametrized(module, "bias"):
            found: Tensor = module.parametrizations["bias"][0].factors()  # type: ignore[index, union-attr]
            return found
        return self.output_factors(path)

    def output_factors(self, path: str) -> Tensor | None:
        """`Â` of the channels of a layer whose outputs it scales, [C]; None for other layers."""
        return self._outputs[path].factors() if path in self._outputs else None

    @torch.no_grad()
    def hold(self) -> None:
        """Zero what is removed: a channel that is gone emits nothing, not even its norm's bias."""
        for parameter, dim, indices in self._held:
            parameter.index_fill_(dim, indices, 0.0)

    def original(self, name: str) -> Tensor | None:
        """The parameter of that name, as it is before attention; None if there is none."""
        path, _, key = name.rpartition(".")
        module = self.model.get_submodule(path)
        if parametrize.is_parametrized(module, key):
            found: Tensor = module.parametrizations[key].original  # type: ignore[index, union-attr]
            return found
        return module._parameters.get(key)

    @torch.no_grad()
    def values(self) -> dict[str, Tensor]:
        """The tensors of the plain network that computes the same: attention is in its weights.

        Those of `biases` are among them, too.
        """
        found = {}
        for name in self._names:
            path, _, key = name.rpartition(".")
            module = self.model.get_submodule(path)
            value = getattr(module, key).detach()
            if path in self._outputs:
                value = self._folded(path, key, value)
            found[name] = value.clone()
        return found

    @torch.no_grad()
    def scales(self, ranges: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`ranges` of the quantized network for the weights that `values` gives."""
        found = dict(ranges)
        for path, hook in self._outputs.items():
            name, factors = f"{path}.{WEIGHT}.scale", hook.factors()
            if name in found:
                found[name] = found[name] * torch.where(factors > 0, factors, 1.0)
        return found

    def _folded(self, path: str, key: str, value: Tensor) -> Tensor:
        """`value` times the factor that the outputs of its layer are scaled with."""
        module = self.model.get_submodule(path)
        if key not in ("weight", "bias") or parametrize.is_parametrized(module, key):
            return value
        if key == "weight" and WEIGHT in module._modules:
            found: Tensor = module.get_submodule(WEIGHT)(value)  # scaled first, it might be rounded elsewhere
            return found
        axis = 1 if key == "weight" and getattr(module, "transposed", False) else 0
        return value * self._outputs[path].along(value, axis)

    def costs(self, physical: Sequence[Sequence[int]]) -> dict[str, float]:
        """Parameters, MACs and channels of the network once `physical`, units for each group, are cut."""
        counts = [len(units) for units in physical]
        shapes = costs.kept_shapes(self.graph, self.graph.groups, counts)
        groups = zip(self.graph.groups, counts, strict=True)
        channels = sum((group.size - count) * group.channels for group, count in groups)
        return {name: cost(shapes) for name, cost in self._cost.items()} | {"channels": float(channels)}

    def fractions(self, physical: Sequence[Sequence[int]] | None = None) -> dict[str, float]:
        """What is left once what can be cut is cut: parameters and MACs as fractions of the dense network's."""
        left = self.costs(self.physical if physical is None else physical)
        return {name: left[name] / cost(self._full) for name, cost in self._cost.items()}

    def fractions_without(self, candidates: Sequence[Tensor]) -> dict[str, float]:
        """The fractions that would be left if `candidates`, units for each vector, were removed, too."""
        kept = self.kept
        for mask, units in zip(kept, candidates, strict=True):
            mask[units.cpu()] = False
        _, physical = attention_sites.silent(self._plain, self.graph, self.sites, kept)
        return self.fractions(physical)

    def kept_by_layer(self) -> dict[str, float]:
        """Name of each vector → the fraction of its units that is left."""
        return {
            site.name: float(mask.float().mean()) for site, mask in zip(self.sites, self.kept, strict=True)
        }

    def weights(self) -> list[Tensor]:
        """The weights that the penalty `R(w)` sums, before attention: of all layers that multiply."""
        return [
            tensor
            for name in self._names
            if name.endswith("weight") and (tensor := self.original(name)) is not None and tensor.dim() > 1
        ]

    def cut(self) -> Mapping[int, list[int]]:
        """Number of each group of the graph → its units that are cut."""
        return {number: list(units) for number, units in enumerate(self.physical) if len(units)}


def removed_units(graph: Graph, cut: Mapping[int, Sequence[int]]) -> Removed:
    """What goes from each parameter when units of groups are cut."""
    from ...graph.groups import union

    return union([graph.groups[number].removed(units) for number, units in cut.items()])
