"""Looking through what torch wraps around a network: `nn.DataParallel`, `torch.compile`, averages.

A wrapper puts `module.` or `_orig_mod.` in front of every name. Records and files hold the names of the
network itself, so that they fit it with or without the wrapper.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator

from torch import nn

from ..errors import InputError

_INNER = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "OptimizedModule": "_orig_mod",  # by name: importing torch._dynamo takes over a second
}
"""Class of torch's → the attribute that holds the network."""
PREFIXES = frozenset(_INNER.values())


def inner(module: nn.Module) -> nn.Module | None:
    """The network that `module` wraps, or None if it is none of torch's wrappers."""
    for cls in type(module).__mro__:
        key = _INNER.get(cls.__name__)
        if key is not None and cls.__module__.partition(".")[0] == "torch":
            return module._modules.get(key)
    return None


def plain(model: nn.Module) -> nn.Module:
    """`model` without the wrappers around it."""
    while (found := inner(model)) is not None:
        model = found
    return model


@contextlib.contextmanager
def bare(model: nn.Module) -> Iterator[nn.Module]:
    """The network in `model`; inside the context no part of it is wrapped or compiled either."""
    network = plain(model)
    away = [
        (parent, key, child)
        for parent in network.modules()
        for key, child in parent._modules.items()
        if child is not None and inner(child) is not None
    ]
    for parent, key, child in away:
        parent._modules[key] = plain(child)
    compiled = [m for m in network.modules() if m.__dict__.get("_compiled_call_impl") is not None]
    calls = [(module, module.__dict__.pop("_compiled_call_impl")) for module in compiled]
    try:
        yield network
    finally:
        for parent, key, child in away:
            if parent._modules.get(key) is plain(child):
                parent._modules[key] = child
        for module, call in calls:
            module.__dict__["_compiled_call_impl"] = call


def check_changeable(model: nn.Module) -> None:
    """Raise `InputError` where a wrapper would go on with the parameters as they were."""
    while (found := inner(model)) is not None:
        if any(cls.__name__ == "DistributedDataParallel" for cls in type(model).__mro__):
            raise InputError(
                "network under DistributedDataParallel",
                "its processes go on averaging the gradients of the parameters that it has now",
                "pass model.module, and wrap that anew afterwards",
            )
        model = found


def without_prefixes(name: str, known: Container[str]) -> str:
    """The name of a tensor without what wrappers put into it, if that is in `known`; else as it is."""
    if name in known:
        return name
    parts = name.split(".")
    marks = [k for k, part in enumerate(parts) if part in PREFIXES]
    shorter = ".".join(part for k, part in enumerate(parts) if k not in marks)
    if shorter in known:
        return shorter
    for k in marks:  # the network may have a part that is called `module`
        once = ".".join(parts[:k] + parts[k + 1 :])
        if once in known:
            return once
    return name
