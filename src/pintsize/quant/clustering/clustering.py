"""Weight clustering: each layer's weights become the centroids of an optimal k-means (Han et al., 1510.00149)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError, InputTypeError, unknown
from ...storage.record import Step, append, check_order, register
from ...tables import Table, Tabular
from ...units import bytes_text
from ..network import patterns
from .clustered import CODES, add_clusters, by_channel, channel_axis, width
from .kmeans import centroids, nearest

Scope = Literal["layer", "channel", "global"]


@register
@dataclass(frozen=True)
class ClusterStep(Step):
    """Weights share values: codebooks and codes are tensors of the model."""

    kind: ClassVar[str] = "cluster"
    may_follow: ClassVar[frozenset[str]] = frozenset({"prune", "depth", "mask", "bake", "fold"})
    reason: ClassVar[str] = "the weights share values already, of clusters or of a quantizer"

    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Path → `levels`, `zeros` and `rows` of its codebook; `axis` where its rows are not the first dimension."""

    def apply(self, model: nn.Module) -> None:
        """Make the layers clustered ones; codebooks and codes are loaded afterwards."""
        for path, options in self.layers.items():
            add_clusters(model.get_submodule(path), **options)


@dataclass(frozen=True)
class ClusteredLayer:
    """A layer after clustering."""

    name: str
    levels: int
    """Entries of a codebook, zero included."""
    codebooks: int
    error: float
    """Squared error over the squared weights."""
    bytes: int
    """Of codebooks (float32) and codes, packed."""


@dataclass(frozen=True)
class ClusterResult(Tabular):
    """What `cluster` did."""

    layers: tuple[ClusteredLayer, ...]

    @property
    def bytes(self) -> int:
        """Of all clustered weights as they are stored."""
        return sum(layer.bytes for layer in self.layers)

    def __rich__(self) -> Table:
        """Values, error and bytes of each layer."""
        rows = [
            (one.name, str(one.levels), str(one.codebooks), f"{100 * one.error:.2g} %", bytes_text(one.bytes))
            for one in self.layers
        ]
        total = (f"{len(rows)} layers", "", "", "", bytes_text(self.bytes))
        return Table(("layer", "values", "codebooks", "squared error", "bytes"), rows, total)


def cluster(
    model: nn.Module,
    *,
    k: int | None = None,
    bits: int | None = None,
    scope: Scope = "layer",
    norms: bool = True,
    ignore: Sequence[str] = (),
) -> ClusterResult:
    """Replace each weight by the nearest of `k` shared values, in place; weights that are zero stay zero.

    Further training moves the shared values (each by the summed gradient of its weights). With a global
    codebook each layer trains its own copy of it.

    Args:
        model: any network.
        k: number of values besides zero; 5 by default.
        bits: instead of `k`: as many values as fit codes of so many bits (1 to 8), zero included if it occurs.
        scope: one codebook per 'layer', per output 'channel', or one 'global' for all.
        norms: batch-norm weights, too; False leaves them as they are.
        ignore: patterns of layers that stay as they are.

    Raises:
        InputError: `k` and `bits` both given or out of range, a pattern that matches nothing, weights that
            are not finite.
        IllegalOrder: the network is clustered or quantized already.
    """
    if not isinstance(model, nn.Module):
        raise InputTypeError(
            f"model of type {type(model).__name__}", "it is not a network", "pass an nn.Module"
        )
    check_order(model, ClusterStep)
    if scope not in get_args(Scope):
        raise unknown("scope", scope, get_args(Scope))
    _check_count(k, bits)
    layers = _layers(model, norms)
    ignored = patterns.matching("ignore", ignore, list(layers))
    layers = {name: layer for name, layer in layers.items() if name not in ignored}
    weights = {name: _values(name, layer) for name, layer in layers.items()}
    shared = (
        _codebook(np.concatenate([w.ravel() for w in weights.values()]), k, bits)
        if scope == "global"
        else None
    )
    books: dict[str, list[np.ndarray[Any, Any]]] = {}
    for name, weight in weights.items():
        rows = (
            weight.ravel()[_places(layers[name])]
            if scope == "channel" and weight.ndim > 1
            else weight.reshape(1, -1)
        )
        zeros = bool((weight == 0).any())
        books[name] = [shared if shared is not None else _codebook(row, k, bits, zeros=zeros) for row in rows]
    step = ClusterStep({name: _options(book, layers[name]) for name, book in books.items()})
    step.apply(model)
    done = tuple(_assign(name, layer, weights[name], books[name]) for name, layer in layers.items())
    append(model, step)
    return ClusterResult(done)


def _check_count(k: int | None, bits: int | None) -> None:
    if k is not None and bits is not None:
        raise InputError(f"k={k}, bits={bits}", "both say how many values there are", "pass one of them")
    if k is not None and (isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= 255):
        raise InputError(f"k={k!r}", "the number of values must be a whole number from 1 to 255", "pass 5")
    if bits is not None and (isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8):
        raise InputError(f"bits={bits!r}", "the number of bits must be a whole number from 1 to 8", "pass 4")


def _layers(model: nn.Module, norms: bool) -> dict[str, nn.Module]:
    kinds: tuple[type[nn.Module], ...] = (nn.modules.conv._ConvNd, nn.Linear)
    if norms:
        kinds += (nn.modules.batchnorm._BatchNorm,)
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds) and module._parameters.get("weight") is not None
    }
    if not found:
        raise InputError(
            f"model {type(model).__name__}", "it has no weights to cluster", "pass a network with layers"
        )
    return found


def _values(name: str, layer: nn.Module) -> np.ndarray[Any, Any]:
    weight = layer._parameters["weight"]
    assert weight is not None
    if not weight.isfinite().all():
        raise InputError(
            f"weight of layer {name}", "it holds NaN or infinite values", "load sound weights or train again"
        )
    return weight.detach().cpu().double().numpy()


def _codebook(
    values: np.ndarray[Any, Any], k: int | None, bits: int | None, *, zeros: bool | None = None
) -> np.ndarray[Any, Any]:
    """Sorted centroids of the non-zero values; with zeros, 0 comes first."""
    zeros = bool((values == 0).any()) if zeros is None else zeros
    count = (1 << bits) - zeros if bits is not None else 5 if k is None else k
    rest = values[values != 0]
    found = centroids(rest, max(1, count)) if len(rest) else np.zeros(0)
    return np.concatenate([[0.0], found]) if zeros else found


def _options(books: list[np.ndarray[Any, Any]], layer: nn.Module) -> dict[str, Any]:
    zeros = bool(books[0].size and books[0][0] == 0)
    options: dict[str, Any] = {"levels": max(map(len, books)), "zeros": zeros, "rows": len(books)}
    return {**options, "axis": 1} if len(books) > 1 and channel_axis(layer) else options


def _places(layer: nn.Module) -> np.ndarray[Any, Any]:
    """Where in the flattened weight the weights of each output channel are, [channels, n]."""
    weight = layer._parameters["weight"]
    assert weight is not None
    return np.asarray(by_channel(torch.arange(weight.numel()).view(weight.shape), layer))


@torch.no_grad()
def _assign(
    name: str, layer: nn.Module, weight: np.ndarray[Any, Any], books: list[np.ndarray[Any, Any]]
) -> ClusteredLayer:
    """Give `layer` its codes and shared values."""
    flat = weight.ravel()
    codes, values = np.zeros(flat.shape, np.uint8), np.zeros(flat.shape)
    places = _places(layer) if len(books) > 1 else np.arange(flat.size)[None]
    for place, book in zip(places, books, strict=True):
        row, first = flat[place], int(book[0] == 0)
        code = np.zeros(row.shape, np.uint8)
        kept = row != 0 if first else np.ones(row.shape, bool)
        code[kept] = nearest(row[kept], book[first:]) + first
        codes[place], values[place] = code, book[code]
    parameter, buffer = layer._parameters["weight"], layer._buffers[CODES]
    assert parameter is not None
    assert isinstance(buffer, Tensor)
    parameter.copy_(torch.from_numpy(values.reshape(weight.shape)))
    buffer.copy_(torch.from_numpy(codes.reshape(weight.shape)))
    stored = width(layer)
    assert stored is not None
    size = float((weight**2).sum())
    error = float(((values.reshape(weight.shape) - weight) ** 2).sum()) / size if size else 0.0
    return ClusteredLayer(name, max(map(len, books)), len(books), error, stored[1])
