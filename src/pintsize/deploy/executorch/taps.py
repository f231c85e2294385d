"""Which layer of a `.pte` file is the first to differ from the model: read from a file that gives its layers, too."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...quant.network.convert import activation_quantizers
from ..layers import first_divergence
from ..pint import seal
from ..runtime import copied
from ..tolerance import explained, outputs_of, relative_error
from .runtime import ExecuTorch, quiet
from .writer import content

_log = logging.getLogger(__name__)


class _Tapped(nn.Module):
    """Gives what the modules of these names give, in the order they run, each the first time that it runs."""

    def __init__(self, network: nn.Module, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self.network = network
        self.names: list[str] = []
        self._modules_by_name = modules

    def forward(self, *args: Any) -> tuple[Tensor, ...]:
        found: dict[str, Tensor] = {}

        def keep(name: str, out: Any) -> None:
            if isinstance(out, Tensor) and name not in found:
                found[name] = out.clone()  # at once: an activation behind it may write into it

        handles = [
            module.register_forward_hook(lambda _m, _i, out, key=name: keep(key, out))
            for name, module in self._modules_by_name.items()
        ]
        try:
            self.network(*args)
        finally:
            for handle in handles:
                handle.remove()
        self.names = [*found]
        return tuple(found.values())


def first_beyond_rounding(model: nn.Module, args: tuple[Any, ...]) -> str | None:
    """The first layer whose result differs by more than rounding does; None if none can be told.

    Of a quantized network results are read behind their quantizers: read before, XNNPACK would take another kernel.
    """
    try:
        with torch.no_grad(), quiet():
            return _first(_Tapped(model, _layers(model)), args)
    except Exception:  # the answer is a help in an error's text, and no reason for another error
        _log.debug("the layers of a .pte file cannot be compared", exc_info=True)
        return None


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """What to read, by the name to tell."""
    for path, module in model.named_modules():
        if quantizers := activation_quantizers(module):
            prefix = f"{path}." if path else ""
            return {
                f"{prefix}{name.rpartition('__')[0].replace('__', '.')}": one
                for name, one in quantizers.items()
            }
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    return {path: module for path, module in model.named_modules() if isinstance(module, kinds)}


def _first(tapped: _Tapped, args: tuple[Any, ...]) -> str | None:
    wanted = outputs_of(tapped(*copied(args)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layers.pte"
        path.write_bytes(seal.seal_tail(content(tapped, args, {})[0]))
        with contextlib.closing(ExecuTorch(path, threads=torch.get_num_threads())) as runtime:
            given = runtime(*(leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)))
    errors = [relative_error(*pair) for pair in zip(outputs_of(given), wanted, strict=True)]
    allowed = explained(lambda: tapped(*copied(args)), wanted, enough=errors)
    names = tapped.names
    return first_divergence(dict(zip(names, errors, strict=True)), dict(zip(names, allowed, strict=True)))
