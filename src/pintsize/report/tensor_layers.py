"""The layers of a module, or of a file that holds a state dict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..storage import network_file as files
from ..storage.record import origin, record
from .shown import Shown, ShownLayer

if TYPE_CHECKING:
    Parts = dict[str, Tensor]

_KINDS = {1: "norm", 2: "linear", 3: "conv1d", 4: "conv2d", 5: "conv3d"}
_QUANTIZER = "weight_quantizer"
_CODEBOOK = "weight_codebook"


def of_module(
    network: nn.Module, example: Any, image_size: tuple[int, int] | None, *, file: Path | None = None
) -> Shown:
    """The layers of a network; `file` is where it was read from.

    Raises:
        OperationError: it does not take `example`.
    """
    if example is None:
        example = _known_example(network, image_size)
    macs = _macs(network, example)
    with torch.no_grad():
        layers = list(_layers(network, macs))
    made = origin(network)
    return Shown(
        str(file) if file else made["name"] if made else type(network).__name__,
        file.stat().st_size if file else None,
        layers,
        tuple(example.shape[1:]) if isinstance(example, Tensor) else None,
        tuple(step.kind for step in record(network)),
    )


def of_file(file: Path, model: nn.Module | None, example: Any, image_size: tuple[int, int] | None) -> Shown:
    """The layers of a `.safetensors` or `.pint` file; of a state dict alone if its network is not known.

    Raises:
        InputError: another suffix, or it does not fit `model`.
        CorruptFile: it is damaged.
        OperationError: the network does not take `example`.
    """
    tensors, document = files.read_tensors(file)
    if model is None and not (document or {}).get("model"):
        return Shown(str(file), file.stat().st_size, list(_stored(tensors)))
    return of_module(files.load(file, model=model), example, image_size, file=file)


def _layers(network: nn.Module, macs: Mapping[str, int] | None) -> Iterator[ShownLayer]:
    """In the order of the modules; those without tensors are left out."""
    for name, parts in _by_layer(network.state_dict()).items():
        layer: Any = network.get_submodule(name)
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor):
            yield from _bare(name, parts)
            continue
        quantizer, codebook = getattr(layer, _QUANTIZER, None), parts.get(_CODEBOOK)
        bits = weight.element_size() * 8
        if quantizer is not None:
            bits, weight = int(quantizer.bits), quantizer(weight)
        elif codebook is not None:
            bits = max(1, (codebook.shape[1] - 1).bit_length())
        others = sum(_bytes(part) for own, part in parts.items() if own != "weight")
        packed = (
            ceil(weight.numel() * bits / 8) if "weight" in parts else 0
        )  # codes are packed in the state dict
        yield ShownLayer(
            name,
            _KINDS.get(weight.dim(), "tensor"),
            tuple(weight.shape),
            _density(weight),
            bits,
            packed + others,
            None if macs is None else macs.get(name, 0),
        )


def _stored(tensors: Mapping[str, Tensor]) -> Iterator[ShownLayer]:
    """Of a state dict whose network is not known."""
    for name, parts in _by_layer(tensors).items():
        weight = parts.get("weight")
        if weight is None or not weight.dim():
            yield from _bare(name, parts)
            continue
        kind = _KINDS.get(weight.dim(), "tensor")
        size = sum(map(_bytes, parts.values()))
        yield ShownLayer(
            name, kind, tuple(weight.shape), _density(weight), weight.element_size() * 8, size, None
        )


def _bare(name: str, parts: Parts) -> Iterator[ShownLayer]:
    """A module with tensors but no weight: its largest stands for it; mere numbers are no layer."""
    found = [part for part in parts.values() if part.is_floating_point() and part.dim() > 0]
    if found:
        largest = max(found, key=Tensor.numel)
        size, bits = sum(map(_bytes, parts.values())), largest.element_size() * 8
        yield ShownLayer(name, "tensor", tuple(largest.shape), _density(largest), bits, size, None)


def _by_layer(tensors: Mapping[str, Tensor]) -> dict[str, Parts]:
    """Tensors gathered by the layer that owns them; a weight's quantizer belongs to its layer."""
    owned: dict[str, Parts] = {}
    for name, tensor in tensors.items():
        layer, _, own = name.replace(f".{_QUANTIZER}.", f".{_QUANTIZER}/").rpartition(".")
        owned.setdefault(layer, {})[own] = tensor
    return owned


def _density(tensor: Tensor) -> float:
    return (tensor != 0).double().mean().item() if tensor.numel() else 0.0


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _known_example(network: nn.Module, image_size: tuple[int, int] | None) -> Tensor | None:
    """An image of the size that is given, else of the one that the network is made for, if that is known."""
    from ..deploy.options import known_input_shape

    shape = known_input_shape(network)
    if image_size is not None:
        first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
        channels = shape[1] if shape else first.in_channels if first else 3
        shape = (1, channels, *image_size)
    return None if shape is None else torch.zeros(shape)


def _macs(network: nn.Module, example: Any) -> dict[str, int] | None:
    from ..measure import profile

    return None if example is None else {layer.name: layer.macs for layer in profile(network, example).layers}
