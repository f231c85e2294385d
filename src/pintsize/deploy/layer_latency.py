"""How long each layer takes alone in ONNX Runtime, in floating point and in integers."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..graph.inputs import as_args
from ..measure import side_by_side
from ..quant.bits.allocation import TIMERS
from ..quant.ptq.calibrate import quantize


@dataclass(frozen=True)
class LayerTimes:
    """Milliseconds of one layer for one image."""

    floating: float
    integer: float
    """From float to float: the conversions at both ends are in it."""


def layer_latencies(
    model: nn.Module,
    example: Any,
    layers: Sequence[str],
    *,
    activations: int | None = 8,
    threads: int = 2,
    repeats: int = 20,
) -> dict[str, LayerTimes]:
    """Time every layer for the first image of `example`; layers alike in shape are timed once.

    The runtime has int8 kernels alone, so the time in integers is that of any width up to 8 bits.

    Args:
        model: not quantized.
        example: an input, or a tuple of them.
        layers: paths of convolutions and linear layers that run.
        activations: bits of what a quantized layer reads and gives; None: its weight alone is rounded.
        threads: of the runtime.
        repeats: timed calls each.
    """
    inputs = layer_inputs(model, example, layers)
    known: dict[tuple[str, torch.Size], LayerTimes] = {}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in layers:
            layer, x = model.get_submodule(name), inputs[name]
            key = (repr(layer), x.shape)
            if key not in known:
                known[key] = time_layer(layer, x, Path(folder), activations, threads=threads, repeats=repeats)
            found[name] = known[key]
    return found


def time_layer(
    layer: nn.Module, x: Tensor, folder: Path, activations: int | None, *, threads: int, repeats: int
) -> LayerTimes:
    """Time one layer for the input `x`; `folder` is for its files."""
    from . import export, open_runtimes

    plain = nn.Sequential(copy.deepcopy(layer).cpu()).eval()
    x = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * 1e-3  # never constant
    rounded = copy.deepcopy(plain)
    outputs = activations is not None
    quantize(rounded, activations=activations, calibration=[x], example=x, outputs=outputs, progress=False)
    files = {name: folder / f"{name}.onnx" for name in ("floating", "integer")}
    for network, path in zip((plain, rounded), files.values(), strict=True):
        export(network, path, example=x, dynamic_batch=False, check=False)
    with open_runtimes(files, threads=threads) as runtimes:
        times = side_by_side(runtimes, x, warmup=3, repeats=repeats, threads=threads)
    return LayerTimes(times["floating"].median_ms, times["integer"].median_ms)


TIMERS.add("onnxruntime", layer_latencies)


@torch.no_grad()
def layer_inputs(model: nn.Module, example: Any, layers: Sequence[str]) -> dict[str, Tensor]:
    """What each layer reads first, of one image."""
    found: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(_module: nn.Module, args: Any) -> None:
            found.setdefault(name, args[0].detach().cpu())

        return hook

    network = copy.deepcopy(model).eval()
    for name in layers:
        network.get_submodule(name).register_forward_pre_hook(note(name))
    network(*(arg[:1] if isinstance(arg, Tensor) else arg for arg in as_args(example, model)))
    return found
