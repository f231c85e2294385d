"""What modules keep from one forward for the next (caches of biases, masks, grids), so that trial runs leave none of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

_OWN = frozenset(vars(nn.Module()))
"""What torch itself keeps: parameters, buffers, modules, hooks, the mode."""


@contextlib.contextmanager
def training_undone(model: nn.Module) -> Iterator[None]:
    """Buffers, and random numbers of its device, are as before afterwards: a forward in training mode leaves no trace."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


def to_eval(model: nn.Module, training: Mapping[nn.Module, bool]) -> None:
    """Eval mode, by way of training where a module does more than note its mode there."""
    kinds = {type(module) for module in training}
    if any(kind.train is not nn.Module.train or kind.eval is not nn.Module.eval for kind in kinds):
        model.train()
        model.eval()
        return
    for module, mode in training.items():
        if mode:
            module.training = False


def keep_state(model: nn.Module) -> Callable[[], None]:
    """Note the attributes of all modules that are no parameters, buffers or modules.

    Returns:
        What puts them back, the contents of dictionaries, lists and sets included.
    """
    contents: dict[int, tuple[Any, Any]] = {}
    attributes = []
    for module in model.modules():
        own = {key: vars(module)[key] for key in vars(module).keys() - _OWN}
        attributes.append((module, own))
        for value in own.values():
            _note(value, contents)

    def put_back() -> None:
        for module, own in attributes:
            now = module.__dict__
            for key in [key for key in now if key not in own and key not in _OWN]:
                del now[key]
            now.update(own)
        for container, held in contents.values():
            if isinstance(container, list):
                container[:] = held
            else:
                container.clear()
                container.update(held)

    return put_back


def _note(value: Any, contents: dict[int, tuple[Any, Any]]) -> None:
    if not isinstance(value, dict | list | set) or id(value) in contents:
        return
    contents[id(value)] = (value, value.copy())
    for one in value.values() if isinstance(value, dict) else value:
        _note(one, contents)
