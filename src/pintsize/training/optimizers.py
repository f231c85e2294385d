"""Optimizers by name, with weight decay only where it belongs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from pintsize.errors import InputError

from .options import Options

_Groups = list[dict[str, Any]]
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def _sgd(groups: _Groups, options: Options, fused: bool | None) -> Optimizer:
    return SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=options.nesterov, fused=fused)


def _adam(groups: _Groups, options: Options, fused: bool | None) -> Optimizer:
    return Adam(groups, lr=options.lr, betas=(options.momentum, 0.999), fused=fused)


def _adamw(groups: _Groups, options: Options, fused: bool | None) -> Optimizer:
    return AdamW(groups, lr=options.lr, betas=(options.momentum, 0.999), fused=fused)


_BY_NAME: dict[str, Callable[[_Groups, Options, bool | None], Optimizer]] = {
    "adam": _adam,
    "adamw": _adamw,
    "sgd": _sgd,
}


def build(model: nn.Module, options: Options, *, others: Iterable[nn.Parameter] = ()) -> Optimizer:
    """The optimizer of all trainable parameters of `model` but `others`, which somebody else steps.

    Biases, the parameters of norms and all others of fewer than two dimensions are not decayed: decay
    there does not regularise (the scale is undone by the norm) and pulls learned quantizer ranges to 0.

    Raises:
        InputError: nothing is left to train.
    """
    taken = {id(parameter) for parameter in others}
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in taken:
                continue
            taken.add(id(parameter))  # a tied parameter has several owners
            (plain if parameter.ndim < 2 or isinstance(module, _NORMS) else decayed).append(parameter)
    if not decayed and not plain:
        raise InputError(
            f"model {type(model).__name__}",
            "it has no trainable parameters",
            "set requires_grad on those to train, or use epochs=0",
        )
    # one fused kernel per step instead of several small operations per parameter
    fused = all(p.device.type in {"cpu", "cuda"} and p.is_floating_point() for p in decayed + plain)
    groups = [
        {"params": params, "weight_decay": decay}
        for params, decay in ((decayed, options.weight_decay), (plain, 0.0))
        if params
    ]
    return _BY_NAME[options.optimizer](groups, options, fused or None)
