"""What a function that changes a network does first, so that it works on whatever state the network is in.

Wrappers and compiled parts are looked through; what was made in `torch.inference_mode()` becomes ordinary; tensors of
the last forward that modules keep lose their graph, which no copy of the network could hold.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from ..errors import InputError
from .wrapped import bare, check_changeable

P = ParamSpec("P")
R = TypeVar("R")
_TABLES = ("_parameters", "_buffers", "_modules")


def changes_network(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator of a function whose first argument, `model`, gets other parameters.

    Raises (beside what the function raises):
        InputError: the network is under `DistributedDataParallel`, or on the meta device.
    """
    entered = enters_network(function)

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        model = args[0] if args else kwargs.get("model")
        if isinstance(model, nn.Module):
            check_changeable(model)
            if any(parameter.is_meta for parameter in model.parameters()):
                raise InputError(
                    f"{type(model).__name__} on the meta device",
                    "it has shapes, but no weights to choose by or to compare with",
                    "fill it first: model.to_empty(device='cpu'), then model.load_state_dict(…)",
                )
        return entered(*args, **kwargs)

    return run


def enters_network(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator of a function that reads or masks its first argument, `model`: it gets the network without wrappers."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        model = args[0] if args else kwargs.get("model")
        if not isinstance(model, nn.Module):
            return function(*args, **kwargs)
        with torch.inference_mode(False), bare(model) as network:
            make_ordinary(network)
            given: dict[str, Any] = dict(kwargs)
            rest = args[1:]
            if args:
                return function(network, *rest, **given)  # type: ignore[arg-type]
            given["model"] = network
            return function(**given)  # type: ignore[call-arg]

    return run


def make_ordinary(model: nn.Module) -> None:
    """Parameters made in inference mode become such that can be trained; kept tensors lose their graph."""
    made: dict[int, Tensor] = {}

    def ordinary(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            new = tensor.detach().clone()
            made[id(tensor)] = (
                nn.Parameter(new, requires_grad=tensor.requires_grad)
                if isinstance(tensor, nn.Parameter)
                else new
            )
        return made[id(tensor)]

    for module in model.modules():
        tables: list[dict[str, Any]] = [module._parameters, module._buffers]
        for table in tables:
            for key, tensor in table.items():
                if tensor is not None and tensor.is_inference():
                    table[key] = ordinary(tensor)
        for key, value in list(vars(module).items()):
            if key not in _TABLES:
                new = without_graph(value)
                if new is not value:
                    module.__dict__[key] = new


def without_graph(value: Any) -> Any:
    """The same value, its tensors (in dictionaries, lists and tuples, too) detached; itself where none has a graph."""
    if isinstance(value, Tensor):
        return value if value.is_leaf and not value.is_inference() else value.detach().clone()
    if type(value) is dict:
        items = {key: without_graph(one) for key, one in value.items()}
        return items if any(items[key] is not value[key] for key in items) else value
    if type(value) in (list, tuple):
        parts = [without_graph(one) for one in value]
        changed = any(new is not old for new, old in zip(parts, value, strict=True))
        return type(value)(parts) if changed else value
    return value
