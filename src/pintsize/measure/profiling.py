"""Parameters, MACs, bytes and activation memory of a network, layer by layer, from one recorded forward."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, prod
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from ..errors import InputError
from ..graph.inputs import as_args
from ..graph.trace import Trace, Value, record
from ..tables import Table, Tabular
from ..units import bytes_text, count_text
from .macs import count


@dataclass(frozen=True)
class LayerProfile:
    """One layer: a module that owns parameters, multiplies, or is a leaf."""

    name: str
    """Path in the model; '' for work done in the root's own forward."""
    type: str
    """Class name of the module."""
    params: int
    """Its own parameters; a shared one counts in the first layer that owns it."""
    macs: int
    """Per image."""
    bytes: int
    """Of its parameters at their true width: packed bits plus scales where quantized, or plus codebooks where clustered."""
    activation_bytes: int
    """Of what it hands to other layers, per image, as the forward makes it (simulated int8 is fp32)."""
    output_shape: tuple[int, ...]
    """Of its last output for the whole example batch; () if it did not run."""
    weight_shape: tuple[int, ...] = ()
    bits: int | None = None
    """Width of its weights; None if it has none."""


@dataclass(frozen=True)
class Profile(Tabular):
    """What a network costs."""

    params: int
    """Shared parameters counted once."""
    macs: int
    """Per image: convolutions, linears, matrix products, attention."""
    bytes: int
    """Of the parameters at their true width."""
    layers: list[LayerProfile] = field(repr=False)
    """In the order in which they first ran."""

    def __rich__(self) -> Table:
        rows = [
            (
                layer.name or "(root)",
                layer.type,
                _shape_text(layer.output_shape),
                count_text(layer.params),
                count_text(layer.macs),
                "" if layer.bits is None else str(layer.bits),
                bytes_text(layer.bytes),
                bytes_text(layer.activation_bytes),
            )
            for layer in self.layers
        ]
        total = (
            "total",
            "",
            "",
            count_text(self.params),
            count_text(self.macs),
            "",
            bytes_text(self.bytes),
            "",
        )
        return Table(_HEADINGS, rows, total, words=3)


_HEADINGS = ("layer", "type", "output", "parameters", "MACs", "bits", "weights", "activations")


def profile(model: nn.Module, example: Any) -> Profile:
    """Count what `model` costs on `example`, by running its forward once in eval mode.

    Args:
        model: any module, compressed or not; unchanged afterwards.
        example: a batch [B, …] of any B, a tuple of inputs whose first is one, or a dict of inputs by name; counts
            are per image.

    Raises:
        InputError: the example is no batch.
        OperationError: the forward fails on it.
    """
    batch = _batch_size(as_args(example, model))
    trace = record(model, example)
    owners = _layers(model)
    tally = _Tally(owners)
    tally.add(trace)
    layers = [_layer(path, owners[path], tally, batch) for path in tally.order()]
    return Profile(
        sum(layer.params for layer in layers),
        sum(layer.macs for layer in layers),
        sum(layer.bytes for layer in layers),
        [layer for layer in layers if _shown(layer, owners[layer.name])],
    )


def _coded_width(module: nn.Module) -> tuple[int, int] | None:
    """Bits of a code and bytes of all of a clustered layer, which says so itself; None for any other."""
    told = getattr(module, "coded_width", None)
    return None if told is None else told()


def _weight_bytes(module: nn.Module, parameters: dict[str, nn.Parameter]) -> int:
    """Bytes of a layer's own parameters: the weight packed at its true width, plus its scales or codebooks."""
    quantizer, clusters = getattr(module, "weight_quantizer", None), _coded_width(module)
    total = 0
    for name, parameter in parameters.items():
        if quantizer is not None and name == "weight":
            total += ceil(parameter.numel() * quantizer.bits / 8)
            total += quantizer.scale.numel() * quantizer.scale.element_size()
        elif clusters is not None and name == "weight":
            total += clusters[1]
        else:
            total += parameter.numel() * parameter.element_size()
    return total


def _batch_size(args: tuple[Any, ...]) -> int:
    for leaf in tree_flatten(args)[0]:
        if isinstance(leaf, Tensor):
            if leaf.dim() and len(leaf):
                return len(leaf)
            raise InputError(
                f"example of shape {tuple(leaf.shape)}", "it holds no images", "pass a batch [B, …], B ≥ 1"
            )
    raise InputError("example", "there is no tensor in it", "pass a batch of images")


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by path, less quantizers and parametrizations: those belong to their layer."""
    return {
        path: module
        for path, module in model.named_modules()
        if not _is_quantizer(module) and ".parametrizations" not in f".{path}"
    }


def _is_quantizer(module: nn.Module) -> bool:
    return hasattr(module, "bits") and hasattr(module, "scale")


class _Tally:
    """Sums of a trace by layer."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        self.layers = layers
        self.macs = dict.fromkeys(layers, 0)
        self.outputs: dict[str, list[Value]] = {path: [] for path in layers}
        self.ran: dict[str, None] = {}
        self.parameters: dict[str, dict[str, nn.Parameter]] = {path: {} for path in layers}
        root = layers[""]
        steps = {id(p) for m in root.modules() if _is_quantizer(m) for p in m.parameters()}
        for name, parameter in root.named_parameters():
            if id(parameter) in steps:
                continue  # a learned step size is no weight of the network
            owner = self.owner(name.rpartition(".")[0])
            self.parameters[owner][name[len(owner) :].removeprefix(".")] = parameter

    def owner(self, path: str) -> str:
        """The layer that a module path belongs to."""
        while path not in self.layers:
            path = path.rpartition(".")[0]
        return path

    def add(self, trace: Trace) -> None:
        """Count every op, and note which values leave their layer."""
        readers: dict[Value, set[str]] = {value: {"the caller"} for value in trace.outputs}
        for op in trace.ops:
            for value in op.inputs:
                readers.setdefault(value, set()).add(self.owner(op.module))
        for op in trace.ops:
            path = self.owner(op.module)
            self.ran[path] = None
            self.macs[path] += count(
                op.func,
                [value.shape for value in op.inputs],
                op.outputs[0].shape if op.outputs else (),
                op.args,
            )
            for value in op.outputs:
                leaves = readers.get(value, set()) - {path}
                if leaves and value.name is None and value not in self.outputs[path]:
                    self.outputs[path].append(value)

    def order(self) -> list[str]:
        """Layers as they ran, then those that did not."""
        return [*self.ran, *(path for path in self.layers if path not in self.ran)]


def _layer(path: str, module: nn.Module, tally: _Tally, batch: int) -> LayerProfile:
    parameters = tally.parameters[path]
    counted = list(parameters.values())
    outputs = tally.outputs[path]
    weight = getattr(module, "weight", None)
    return LayerProfile(
        name=path,
        type=type(module).__name__,
        params=sum(parameter.numel() for parameter in counted),
        macs=round(tally.macs[path] / batch),
        bytes=_weight_bytes(module, parameters),
        activation_bytes=round(sum(prod(value.shape) * value.dtype.itemsize for value in outputs) / batch),
        output_shape=tuple(outputs[-1].shape) if outputs else (),
        weight_shape=tuple(weight.shape) if isinstance(weight, Tensor) else (),
        bits=_bits(module, counted),
    )


def _bits(module: nn.Module, parameters: list[nn.Parameter]) -> int | None:
    """Width of a weight: of its integers or codes, if it has such."""
    quantizer, clusters = getattr(module, "weight_quantizer", None), _coded_width(module)
    if quantizer is not None:
        return int(quantizer.bits)
    if clusters is not None:
        return clusters[0]
    return parameters[0].element_size() * 8 if parameters else None


def _shown(layer: LayerProfile, module: nn.Module) -> bool:
    leaf = next(module.children(), None) is None
    return bool(layer.params or layer.macs or (leaf and layer.output_shape))


def _shape_text(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) if shape else "–"
