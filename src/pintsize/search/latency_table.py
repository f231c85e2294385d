"""How long a layer takes at other widths: measured at a few, interpolated between, kept for this machine.

The file of a machine is `latency/<digest>.json` in the cache folder; what cannot be read in it is measured
again.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..deploy import open_runtimes
from ..deploy.layer_latency import LayerTimes, layer_inputs
from ..errors import OperationError
from ..graph import Graph
from ..measure import machine, side_by_side
from ..storage.atomic import write_text
from .layer_file import layer_file

logger = logging.getLogger(__name__)

_FORMAT = 2
_ANCHORS = (0.25, 0.5, 1.0)
"""Shares of a layer's channels at which it is timed."""
_CALL = "a call that computes nothing"
_LEAST = 0.02
"""Share of a measured time that is the layer's own, however noisy the times are."""
_CONVOLUTIONS: dict[int, Callable[..., nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
"""By the dimensions of the weight: a subclass may be built otherwise."""


def cache_file(backend: str, threads: int) -> Path:
    """The table of this machine: what decides its times is in the name."""
    from ..storage.digests import digest

    facts = machine()
    told = [facts["cpu"], facts["cores"], facts["isa"], backend, facts["versions"].get(backend), threads]
    root = Path(os.environ.get("PINTSIZE_CACHE") or "~/.cache/pintsize").expanduser()
    return root / "latency" / f"{digest(told)[:16]}.json"


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer that runs, and what it reads."""

    name: str
    module: nn.Module
    input_shape: tuple[int, ...]
    """Of one image, with the batch dimension."""
    free_inputs: bool
    """Whether its input channels may become fewer."""
    free_outputs: bool

    @property
    def depthwise(self) -> bool:
        """Whether inputs and outputs are the same channels."""
        groups = int(getattr(self.module, "groups", 1))
        return groups > 1 and groups == self._weight.shape[0]

    @property
    def widths(self) -> tuple[int, int]:
        """Input and output channels."""
        groups = int(getattr(self.module, "groups", 1))
        return int(self._weight.shape[1]) * groups, int(self._weight.shape[0])

    @property
    def _weight(self) -> torch.Tensor:
        weight = self.module.weight
        assert isinstance(weight, torch.Tensor)
        return weight

    def resized(self, inputs: int, outputs: int) -> tuple[nn.Module, torch.Tensor] | None:
        """The layer with other widths and an input for it; None for kinds that cannot be built anew."""
        module, generator = self.module, torch.Generator().manual_seed(0)
        made: nn.Module
        if isinstance(module, nn.Linear):
            shape = (*self.input_shape[:-1], inputs)
            made = nn.Linear(inputs, outputs, bias=module.bias is not None)
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            shape = (self.input_shape[0], inputs, *self.input_shape[2:])
            groups = outputs if self.depthwise else module.groups
            if inputs % groups or outputs % groups:
                return None
            made = _CONVOLUTIONS[self._weight.ndim](
                inputs, outputs, module.kernel_size, module.stride, module.padding, module.dilation, groups,
                module.bias is not None, module.padding_mode,
            )  # fmt: skip
        else:
            return None
        return made.eval(), torch.randn(shape, generator=generator)


class LatencyTable:
    """Times of layers in a runtime; what was measured once on this machine is not measured again.

    Args:
        path: its file; by default that of this machine in the cache folder.
        backend: the runtime, one that opens `.onnx`.
        threads: of the runtime.
        repeats: timed calls of a layer; what a tenth of them keep within counts, as other work of the machine
            only ever adds to so short a time.
    """

    def __init__(
        self, path: Path | None = None, *, backend: str = "onnxruntime", threads: int = 2, repeats: int = 100
    ) -> None:
        self.path = cache_file(backend, threads) if path is None else path
        self._backend, self._threads, self._repeats = backend, threads, repeats
        self.times = _read(self.path)
        self.measured = 0
        """Layers timed by this object."""

    def measure(self, layer: Layer) -> dict[tuple[int, int], LayerTimes]:
        """Times at the anchors: (input channels, output channels) → milliseconds; none for kinds that cannot be built.

        What a call of the runtime takes by itself is not in them: a network is one call, however many its layers.
        """
        inputs, outputs = layer.widths
        wide = _anchors(outputs, layer.free_outputs)
        pairs = (
            [(n, n) for n in wide]
            if layer.depthwise
            else [(i, o) for i in _anchors(inputs, layer.free_inputs) for o in wide]
        )
        return {pair: times for pair in pairs if (times := self._own_time(layer, *pair)) is not None}

    def _own_time(self, layer: Layer, inputs: int, outputs: int) -> LayerTimes | None:
        whole = self._time(layer, inputs, outputs)
        if whole is None:
            return None
        empty = self._lookup(_CALL, nn.Identity(), torch.zeros(1, 1))
        floating, integer = (
            max(time - empty.floating, _LEAST * time) for time in (whole.floating, whole.integer)
        )
        return LayerTimes(floating, integer)

    def _time(self, layer: Layer, inputs: int, outputs: int) -> LayerTimes | None:
        resized = layer.resized(inputs, outputs)
        if resized is None:
            return None
        module, x = resized
        return self._lookup(f"{module!r} {tuple(x.shape)}", module, x)

    def _lookup(self, key: str, module: nn.Module, x: torch.Tensor) -> LayerTimes:
        if key not in self.times:
            times = self._run(module, x)
            self.times = {**_read(self.path), **self.times, key: times}  # another process may have added
            self.measured += 1
            entries = {name: [each.floating, each.integer] for name, each in self.times.items()}
            try:
                write_text(self.path, json.dumps({"format": _FORMAT, "times": entries}, indent=1))
            except OperationError as error:  # a cache is there to save time; the times are known
                if self.measured == 1:
                    logger.warning("%s: the times of layers are not kept for other runs", error)
        return self.times[key]

    def _run(self, module: nn.Module, x: torch.Tensor) -> LayerTimes:
        """Both files of the layer in turns."""
        with tempfile.TemporaryDirectory() as folder:
            files = {name: Path(folder) / f"{name}.onnx" for name in ("floating", "integer")}
            for name, path in files.items():
                path.write_bytes(layer_file(module, x, integer=name == "integer"))
            with open_runtimes(files, backend=self._backend, threads=self._threads) as runtimes:
                times = side_by_side(
                    runtimes, x.numpy(), warmup=5, repeats=self._repeats, threads=self._threads
                )
        return LayerTimes(*(float(np.percentile(times[name].runs, 10)) for name in ("floating", "integer")))


def interpolate(times: dict[tuple[int, int], float], inputs: int, outputs: int) -> float:
    """Bilinear between the measured widths; below the smallest the last slope goes on, never below 0.

    Args:
        times: (input channels, output channels) → milliseconds, on a full grid or a diagonal.
        inputs: channels read.
        outputs: channels made.
    """
    rows = sorted({pair[0] for pair in times})
    columns = sorted({pair[1] for pair in times})
    if len(times) < len(rows) * len(columns):  # depthwise: inputs are outputs
        return max(
            0.0, _line([pair[1] for pair in sorted(times)], [times[p] for p in sorted(times)], outputs)
        )
    across = [_line(columns, [times[row, column] for column in columns], outputs) for row in rows]
    return max(0.0, _line(rows, across, inputs))


def _line(places: Sequence[int], values: Sequence[float], at: float) -> float:
    if len(places) == 1:
        return values[0]
    k = next((k for k in range(1, len(places) - 1) if at <= places[k]), len(places) - 1)
    share = (at - places[k - 1]) / (places[k] - places[k - 1])
    return values[k - 1] + share * (values[k] - values[k - 1])


def _anchors(count: int, free: bool) -> list[int]:
    return sorted({max(1, round(count * share)) for share in _ANCHORS}) if free else [count]


def _read(path: Path) -> dict[str, LayerTimes]:
    """What the file holds; nothing, with a line in the log, if it cannot be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != _FORMAT:
            return {}
        times = {str(k): LayerTimes(float(a), float(b)) for k, (a, b) in document["times"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        logger.info("%s cannot be read (%s): layers are timed again", path, error)
        return {}
    return {
        name: each
        for name, each in times.items()
        if all(math.isfinite(t) and t > 0 for t in (each.floating, each.integer))
    }


def weight_layers(graph: Graph) -> list[str]:
    """Modules with a weight that a convolution or a product uses, in the order in which they run."""
    weights = {name.rpartition(".")[0] for name, value in graph.trace.parameters.items()
               if name.endswith(".weight") and len(value.shape) >= 2}  # fmt: skip
    ran = dict.fromkeys(op.module for op in graph.trace.ops)
    return [name for name in ran if name in weights]


def layers_of(model: nn.Module, graph: Graph, example: Any, names: list[str]) -> list[Layer]:
    """The layers by name, each with what it reads and which of its sides may shrink."""
    free = {(member.parameter, member.dim) for group in graph.groups for member in group.members}
    inputs = layer_inputs(model, example, names)
    return [
        Layer(name, model.get_submodule(name), tuple(inputs[name].shape),
              (f"{name}.weight", 1) in free, (f"{name}.weight", 0) in free)
        for name in names
        if name in inputs
    ]  # fmt: skip
