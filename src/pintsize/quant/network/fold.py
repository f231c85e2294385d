"""Folding batch norm into the layer in front of it: one affine map less, the same function.

With `γ, β, μ, σ²` of the norm, the layer's weights become `w·γ/√(σ²+ε)` and its bias
`(b − μ)·γ/√(σ²+ε) + β` (Jacob et al., 1712.05877, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...graph import trace
from ...graph.trace import CallKey
from ...storage.record import Step, append, check_order, register
from ..clustering.clustered import part_channels
from ..grid.quantizer import FakeQuantize
from ..grid.quotients import odd_quotients
from ..grid.ties import avoid_ties
from ..ptq.ranges import floating_point, round_biases
from . import convert
from .flow import Flow, Kind, build
from .norms import Norm, norms_behind, own_weight, take_out
from .record import replan, step_of

_RAISED = 1.01
"""A scale that grows by more is that of a channel next to nothing, whose weights are rounded anew."""


@register
@dataclass(frozen=True)
class FoldStep(Step):
    """Batch norms were folded into the layers in front of them."""

    kind: ClassVar[str] = "fold"
    may_follow: ClassVar[frozenset[str]] = frozenset(
        {"prune", "depth", "mask", "scatter", "bake", "cluster", "fold", "quantize"}
    )

    norms: dict[str, str] = field(default_factory=dict)
    """Path of the layer → path of the norm, which became an `nn.Identity`."""
    calls: dict[str, list[list[Any]]] = field(default_factory=dict)
    """In a quantized network: path of the norm → its call and that of the layer, which takes its place."""
    inside: dict[str, list[Any]] = field(default_factory=dict)
    """Path of the layer → path of a module that runs a norm among other things, and the norm's tensors."""

    def apply(self, model: nn.Module) -> None:
        """Give each layer a bias and take each norm out; values are loaded afterwards."""
        for layer in (*self.norms, *self.inside):
            module = model.get_submodule(layer)
            part_channels(module)
            if module.bias is None:
                weight = own_weight(module)
                count = weight.shape[1] * module.groups if _transposed(module) else weight.shape[0]
                module.bias = nn.Parameter(torch.zeros(count, dtype=weight.dtype, device=weight.device))
        for layer, norm in self.norms.items():
            _replace(model, norm, nn.Identity().train(model.get_submodule(layer).training))
        for path, tensors in self.inside.values():
            take_out(model, path, tensors)
        for before, after in reversed(self.calls.values()):
            convert.move_quantizer(model, CallKey(*before), CallKey(*after))

    @property
    def folded(self) -> list[str]:
        """Paths of the norms, or of the modules that run them, in no order."""
        return [*self.norms.values(), *(path for path, _ in self.inside.values())]


def fold_batchnorm(model: nn.Module, example: Any) -> FoldStep | None:
    """Fold every batch norm that can be folded, in place; adds a step to the record.

    A norm is folded if it alone reads the result of a convolution or linear layer, both run once per
    forward, and it has tracked statistics of its own. It may be a module, part of one (which runs an
    activation, too), or a call in a forward of yours. Others stay. A weight quantizer's
    scales are scaled along, so the integers that stand for its weights stay what they are. Where weights share
    values, each output channel then has a codebook of its own: the layer's times the norm's factor. A quantized grouped
    transposed convolution keeps its norm, as its groups share weight scales; `quantize` folds such norms beforehand.

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
    """
    return fold_norms(
        model, example, lambda module: not (convert.WEIGHT in module._modules and shares_scales(module))
    )


def fold_norms(model: nn.Module, example: Any, which: Callable[[nn.Module], bool]) -> FoldStep | None:
    """As `fold_batchnorm`, of the norms behind those layers alone for which `which` is true."""
    with floating_point(model):
        flow = build(trace.record(model, example), model)
    behind = norms_behind(flow, model)
    norms = {layer: norm for layer, norm in behind.items() if which(model.get_submodule(layer))}
    if not norms:
        return None
    check_order(model, FoldStep)
    affine = {layer: _affine(model, norm) for layer, norm in norms.items()}
    step = FoldStep(
        {layer: norm.module for layer, norm in norms.items() if norm.alone},
        _calls(flow, norms) if convert.ACTIVATIONS in model._modules else {},
        {layer: [norm.module, norm.tensors] for layer, norm in norms.items() if not norm.alone},
    )
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


def _calls(flow: Flow, norms: Mapping[str, Norm]) -> dict[str, list[list[Any]]]:
    made = {node.layer: node.op.call for node in flow.nodes if node.kind is Kind.LAYER}
    found: dict[str, list[list[Any]]] = {}
    for layer, norm in norms.items():
        before, after = norm.node.op.call, made[layer]
        assert before is not None
        assert after is not None
        found[norm.mean] = [list(astuple(before)), list(astuple(after))]
    return found


def make_factors_positive(model: nn.Module, norms: Mapping[str, Norm]) -> None:
    """Turn the sign of each channel whose norm has a negative factor, in layer and norm; the result is the same.

    Folding then keeps the sign of quantized weights, whose most negative level has no positive counterpart.

    Args:
        model: any network; changed in place.
        norms: layer → norm, as `norms_behind` finds them.
    """
    for layer, norm in norms.items():
        module = model.get_submodule(layer)
        if norm.weight is None or _transposed(module):
            continue
        factor, mean = _tensor(model, norm.weight), _tensor(model, norm.mean)
        sign = torch.where(factor < 0, -1.0, 1.0).to(factor.dtype)
        with torch.no_grad():
            weight = own_weight(module)
            weight.mul_(sign.view(-1, *[1] * (weight.dim() - 1)))
            if isinstance(module.bias, Tensor):
                module.bias.mul_(sign)
            factor.mul_(sign)
            mean.mul_(sign)


def foldable(flow: Flow, model: nn.Module) -> dict[str, str]:
    """Path of each layer whose batch norm is a module of its own that can be folded → path of the norm."""
    return {layer: norm.module for layer, norm in norms_behind(flow, model).items() if norm.alone}


def _tensor(model: nn.Module, name: str) -> Tensor:
    """A parameter or buffer of `model`, without its gradient."""
    parent, _, key = name.rpartition(".")
    found = getattr(model.get_submodule(parent), key)
    assert isinstance(found, Tensor)
    return found.detach()


def _transposed(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvTransposeNd)


def _affine(model: nn.Module, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """The factor of `norm` in eval mode, the mean of what it reads and of what it gives, each [C] float64."""
    mean, variance = (_tensor(model, name).double() for name in (norm.mean, norm.variance))
    if not (variance.isfinite().all() and mean.isfinite().all()):
        raise InputError(
            f"batch norm {norm.module}", "its statistics are not finite", "load sound weights or train again"
        )
    factor = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * _tensor(model, norm.weight).double()
    given = torch.zeros_like(factor) if norm.bias is None else _tensor(model, norm.bias).double()
    if not (factor.isfinite().all() and given.isfinite().all()):
        raise InputError(
            f"batch norm {norm.module}",
            "its weight or bias is not finite",
            "load sound weights or train again",
        )
    return factor, mean, given


def shares_scales(module: nn.Module) -> bool:
    """Whether output channels of one layer share a weight scale, once it is quantized: a norm behind it would part them."""
    return _transposed(module) and int(module.groups) > 1  # type: ignore[arg-type]


def _scale(module: nn.Module, factor: Tensor, read: Tensor, given: Tensor, ratio: float | None) -> None:
    weight, bias = own_weight(module), module.bias
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
        weight.copy_(weight.double() * per_row.view(shape) + 0.0)  # 0 for −0: what was removed is zero
    else:
        shape[0] = -1
        weight.copy_(weight.double() * factor.view(shape) + 0.0)
    bias.copy_((bias.double() - read) * factor + given)  # the mean stays exact where a scale was changed


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
