"""Folding batch norm into the layer in front of it: one affine map less, the same function.

With `γ, β, μ, σ²` of the norm, the layer's weights become `w·γ/√(σ²+ε)` and its bias
`(b − μ)·γ/√(σ²+ε) + β` (Jacob et al., 1712.05877, section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...errors import InputError, UnsupportedOp
from ...graph import trace
from ...graph.trace import CallKey
from ...storage.record import Step, append, check_order, register
from ..grid.quantizer import FakeQuantize
from ..grid.quotients import odd_quotients
from ..grid.ties import avoid_ties
from ..ptq.ranges import floating_point, round_biases
from . import convert
from .flow import Flow, Kind, Node, build
from .record import replan, step_of

_RAISED = 1.01
"""A scale that grows by more is that of a channel next to nothing, whose weights are rounded anew."""


@register
@dataclass(frozen=True)
class FoldStep(Step):
    """Batch norms were folded into the layers in front of them."""

    kind: ClassVar[str] = "fold"
    may_follow: ClassVar[frozenset[str]] = frozenset({"prune", "depth", "mask", "scatter", "bake", "quantize"})
    reason: ClassVar[str] = (
        "folding scales each channel, which would move the weights off their shared values"
    )

    norms: dict[str, str] = field(default_factory=dict)
    """Path of the layer → path of the norm, which became an `nn.Identity`."""
    calls: dict[str, list[list[Any]]] = field(default_factory=dict)
    """In a quantized network: path of the norm → its call and that of the layer, which takes its place."""

    def apply(self, model: nn.Module) -> None:
        """Give each layer a bias and take each norm out; values are loaded afterwards."""
        for layer, norm in self.norms.items():
            module = model.get_submodule(layer)
            if module.bias is None:
                weight = _own_weight(module)
                count = weight.shape[1] * module.groups if _transposed(module) else weight.shape[0]
                module.bias = nn.Parameter(torch.zeros(count, dtype=weight.dtype, device=weight.device))
            _replace(model, norm, nn.Identity().train(module.training))
        for before, after in self.calls.values():
            convert.move_quantizer(model, CallKey(*before), CallKey(*after))


def fold_batchnorm(model: nn.Module, example: Any) -> FoldStep | None:
    """Fold every batch norm that can be folded, in place; adds a step to the record.

    A norm is folded if it alone reads the result of a convolution or linear layer, both run once per
    forward, and it is a module of its own with tracked statistics. Others stay. A weight quantizer's
    scales are scaled along, so the integers that stand for its weights stay what they are.

    Args:
        model: any network; what it computes in eval mode is unchanged (up to rounding, 1e-5). In a quantized one the
            scales of folded layers change by up to 0.4 % and those of sums by up to 0.2 %, so that no result is near a
            rounding threshold (`quant.ties`).
        example: an input, or a tuple of them.

    Returns:
        What was folded, or None if there was nothing to fold.

    Raises:
        IllegalOrder: the record holds a step that folding would undo.
        InputError: the numbers of a norm are not finite.
        UnsupportedOp: the norm follows a grouped transposed convolution that is quantized.
    """
    with floating_point(model):
        flow = build(trace.record(model, example), model)
    norms = foldable(flow, model)
    if not norms:
        return None
    check_order(model, FoldStep)
    affine = {layer: _affine(model.get_submodule(norm), norm) for layer, norm in norms.items()}
    for layer in norms:
        _check_scales(model.get_submodule(layer), layer)
    step = FoldStep(norms, _calls(flow, norms) if convert.ACTIVATIONS in model._modules else {})
    quantized, ratios = step_of(model), {}
    if quantized is not None:
        ratios = avoid_ties(model, quantized, replan(flow, quantized))
    step.apply(model)
    with torch.no_grad():
        for layer, how in affine.items():
            _scale(model.get_submodule(layer), *how, ratios.get(layer))
    append(model, step)
    if quantized is not None:
        round_biases(model, quantized)
    return step


def _calls(flow: Flow, norms: dict[str, str]) -> dict[str, list[list[Any]]]:
    made = {node.op.module: node.op.call for node in flow.nodes if node.kind in (Kind.LAYER, Kind.NORM)}
    found: dict[str, list[list[Any]]] = {}
    for layer, norm in norms.items():
        before, after = made[norm], made[layer]
        assert before is not None
        assert after is not None
        found[norm] = [list(astuple(before)), list(astuple(after))]
    return found


def make_factors_positive(model: nn.Module, norms: Mapping[str, str]) -> None:
    """Turn the sign of each channel whose norm has a negative factor, in layer and norm; the result is the same.

    Folding then keeps the sign of quantized weights, whose most negative level has no positive counterpart.

    Args:
        model: any network; changed in place.
        norms: layer → norm, as `foldable` finds them.
    """
    for layer, norm in norms.items():
        module, bn = model.get_submodule(layer), model.get_submodule(norm)
        assert isinstance(bn, nn.modules.batchnorm._BatchNorm)
        if bn.weight is None or _transposed(module):
            continue
        assert bn.running_mean is not None
        sign = torch.where(bn.weight.detach() < 0, -1.0, 1.0).to(bn.weight.dtype)
        with torch.no_grad():
            weight = _own_weight(module)
            weight.mul_(sign.view(-1, *[1] * (weight.dim() - 1)))
            if isinstance(module.bias, Tensor):
                module.bias.mul_(sign)
            bn.weight.mul_(sign)
            bn.running_mean.mul_(sign)


def foldable(flow: Flow, model: nn.Module) -> dict[str, str]:
    """Path of each layer whose batch norm can be folded → path of the norm."""
    ran: dict[str, list[Node]] = {}
    for node in (node for node in flow.nodes if any(edge.computed for edge in node.outputs)):
        ran.setdefault(node.op.module, []).append(node)
    modules = dict(model.named_modules())
    weights = [id(_own_weight(module)) for module in modules.values() if _is_layer(module)]
    found: dict[str, str] = {}
    for node in flow.nodes:
        source = node.args[0] if node.kind is Kind.NORM else None
        if source is None or source.producer is None or len(source.readers) != 1 or source in flow.outputs:
            continue
        layer, norm = source.producer, node.op.module
        alone = ran[norm] == [node] and not any(path.startswith(f"{norm}.") for path in ran)
        once = layer.layer is not None and sum(other.layer == layer.layer for other in flow.nodes) == 1
        if not alone or not once or layer.layer is None:
            continue
        module, bn = modules[layer.layer], modules[norm]
        plain = isinstance(bn, nn.modules.batchnorm._BatchNorm) and bn.running_mean is not None
        # a parametrized weight (a mask, say) is computed anew from its original at each forward
        if plain and "weight" in module._parameters and weights.count(id(_own_weight(module))) == 1:
            found[layer.layer] = norm
    return found


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd)


def _own_weight(module: nn.Module) -> Tensor:
    weight = module._parameters.get("weight")
    return weight if weight is not None else module.weight  # type: ignore[return-value]


def _transposed(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvTransposeNd)


def _affine(norm: nn.Module, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """The factor of `norm` in eval mode, the mean of what it reads and of what it gives, each [C] float64."""
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    if not (norm.running_var.isfinite().all() and norm.running_mean.isfinite().all()):
        raise InputError(
            f"batch norm {name}", "its statistics are not finite", "load sound weights or train again"
        )
    factor = (norm.running_var.detach().double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.detach().double()
    given = torch.zeros_like(factor) if norm.bias is None else norm.bias.detach().double()
    if not (factor.isfinite().all() and given.isfinite().all()):
        raise InputError(
            f"batch norm {name}", "its weight or bias is not finite", "load sound weights or train again"
        )
    return factor, norm.running_mean.detach().double(), given


def _check_scales(module: nn.Module, name: str) -> None:
    """Raise if the weight scales of a layer cannot take up the factors of a norm."""
    if convert.WEIGHT in module._modules and _transposed(module) and int(module.groups) > 1:  # type: ignore[arg-type]
        raise UnsupportedOp(
            f"batch norm after {name}, a grouped transposed convolution that is quantized",
            "its groups share weight scales, which the norm would part",
            "fold batch norm before quantizing",
        )


def _scale(module: nn.Module, factor: Tensor, read: Tensor, given: Tensor, ratio: float | None) -> None:
    weight, bias = _own_weight(module), module.bias
    assert isinstance(bias, Tensor)
    quantizer = module._modules.get(convert.WEIGHT)
    if quantizer is not None:
        assert isinstance(quantizer, FakeQuantize)
        if quantizer.bits > 1:  # what is beyond the last level must not come back where a scale is raised
            low, high = (quantizer.along(weight, end) for end in quantizer.limits())
            weight.clamp_(low, high)
        exact = quantizer.scale.double() * factor.abs()
        quantizer.scale.copy_(odd_quotients(exact, ratio))
        gain = quantizer.scale / exact
        factor = factor * torch.where(gain < _RAISED, gain, 1)  # the integers stay the same
    shape = [1] * weight.dim()
    if _transposed(module):  # [in, out / groups, …]: the rows of a group meet the channels of that group
        groups = int(module.groups)  # type: ignore[arg-type]
        per_row = (
            factor.view(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1).reshape(weight.shape[0], -1)
        )
        shape[0], shape[1] = per_row.shape
        weight.copy_(weight.double() * per_row.view(shape))
    else:
        shape[0] = -1
        weight.copy_(weight.double() * factor.view(shape))
    bias.copy_((bias.double() - read) * factor + given)  # the mean stays exact where a scale was changed


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
