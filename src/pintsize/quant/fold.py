"""Folding batch norm into the layer in front of it: one affine map less, the same function.

With `γ, β, μ, σ²` of the norm, the layer's weights become `w·γ/√(σ²+ε)` and its bias
`(b − μ)·γ/√(σ²+ε) + β` (Jacob et al., 1712.05877, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..graph import trace
from ..record import Step, append, check_order, register
from .flow import Flow, Kind, Node, build


@register
@dataclass(frozen=True)
class FoldStep(Step):
    """Batch norms were folded into the layers in front of them."""

    kind: ClassVar[str] = "fold"
    may_follow: ClassVar[frozenset[str]] = frozenset({"prune", "mask", "scatter", "quantize"})
    reason: ClassVar[str] = (
        "folding scales each channel, which would move the weights off their shared values"
    )

    norms: dict[str, str] = field(default_factory=dict)
    """Path of the layer → path of the norm, which became an `nn.Identity`."""

    def apply(self, model: nn.Module) -> None:
        """Give each layer a bias and take each norm out; values are loaded afterwards."""
        for layer, norm in self.norms.items():
            module = model.get_submodule(layer)
            if module.bias is None:
                weight = _own_weight(module)
                count = weight.shape[1] * module.groups if _transposed(module) else weight.shape[0]
                module.bias = nn.Parameter(torch.zeros(count, dtype=weight.dtype, device=weight.device))
            _replace(model, norm, nn.Identity().train(module.training))


def fold_batchnorm(model: nn.Module, example: Any) -> FoldStep | None:
    """Fold every batch norm that can be folded, in place; adds a step to the record.

    A norm is folded if it alone reads the result of a convolution or linear layer, both run once per
    forward, and it is a module of its own with tracked statistics. Others stay. A weight quantizer's
    scales are scaled along, so the quantized weights stay what they are.

    Args:
        model: any network; what it computes in eval mode is unchanged (up to rounding, 1e-5).
        example: an input, or a tuple of them.

    Returns:
        What was folded, or None if there was nothing to fold.

    Raises:
        IllegalOrder: the record holds a step that folding would undo.
    """
    norms = foldable(build(trace.record(model, example), model), model)
    if not norms:
        return None
    check_order(model, FoldStep)
    affine = {layer: _affine(model.get_submodule(norm), norm) for layer, norm in norms.items()}
    step = FoldStep(norms)
    step.apply(model)
    with torch.no_grad():
        for layer, (factor, shift) in affine.items():
            _scale(model.get_submodule(layer), factor, shift)
    append(model, step)
    return step


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


def _affine(norm: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """The factor and shift, each [C] float64, that `norm` is in eval mode."""
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
    shift = -norm.running_mean.detach().double() * factor
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return factor, shift


def _scale(module: nn.Module, factor: Tensor, shift: Tensor) -> None:
    weight, bias = _own_weight(module), module.bias
    assert isinstance(bias, Tensor)
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
    bias.copy_(bias.double() * factor + shift)


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
