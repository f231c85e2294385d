"""Entropy coding of quantized weights: asymmetric numeral systems over contexts that model the channels.

Layers with kernels of one size are read together, one position of the kernel after the other. How far a
symbol spreads is estimated from what is known by then of its output channel, its input channel and its own kernel;
its sign from the neighbours above and to the left. Both choose one of a few distributions, which the
file carries. Only +, −, ×, ÷ and comparisons of float32 are used, so that every machine comes to the
same choice. Specified in `docs/format.md`.

Shapes: Y × X kernel, O output channels, I input channels.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...errors import CorruptFile

Array = np.ndarray[Any, Any]
Shape4 = tuple[int, int, int, int]

LARGEST = 255
"""No symbol is larger in magnitude."""
_SCALES = 40  # classes of estimated spread, two per octave from 2⁻¹²
_FIRST = 230  # the upper ten bits of float32 2⁻¹²
_CLASSES = 3 * _SCALES  # times how much the neighbours point one way: little, somewhat, clearly
_TILES = 4  # layers without a kernel are read in 4 × 4 interleaved tiles
_CHANNEL = np.float32(4)  # how many symbols the layer's mean counts for in a channel's
_KERNEL = np.float32(4)  # and the channels' estimate in a kernel's
_NEIGHBOUR = np.float32(2)  # how much more a neighbour counts than the rest of the kernel
_START = 16.0  # how many symbols the stored first estimate counts for
_SOMEWHAT, _CLEARLY = np.float32(0.4), np.float32(1)
_KNOTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 126, 127, 160, 192, 224, 254, 255)
_EXP2 = np.array([round(2 ** (24 - step / 16)) for step in range(16)], np.int64)
_FEWEST = 512  # symbols that are worth a distribution of their own
_CORRUPT = "restore it from a copy"


def encode(tensors: Sequence[Array], largest: int) -> bytes:
    """Code the weights of one alphabet.

    Args:
        tensors: integers [O, I, Y, X], each from −largest to largest.
        largest: at most 255.
    """
    from constriction import stream

    starts = bytes(_start(tensor) for tensor in tensors)
    groups = _grouped([tensor.shape for tensor in tensors], starts)
    for group in groups:
        for layer in group.layers:
            layer.symbols[...] = tensors[layer.number].transpose(2, 3, 0, 1)
    passes = [
        (step.classes, step.turn(_together(step.views)) + largest)
        for group in groups
        for step in _scan(group)
    ]
    counts = np.zeros((_CLASSES, 2 * largest + 1), np.int64)
    for classes, symbols in passes:
        counts += np.bincount(
            classes.astype(np.int64) * counts.shape[1] + symbols, minlength=counts.size
        ).reshape(counts.shape)
    models = _merge(counts.sum(1))
    costs = np.stack([_fit(counts[models == model].sum(0), largest) for model in range(models.max() + 1)])
    distributions = _distributions(costs, largest)
    coder = stream.stack.AnsCoder()
    for classes, symbols in reversed(passes):
        chosen = models[classes]
        ends = np.cumsum(np.bincount(chosen, minlength=len(distributions)))
        grouped = symbols[np.argsort(chosen, kind="stable")].astype(np.int32)
        for model in range(len(distributions) - 1, -1, -1):
            first = ends[model - 1] if model else 0
            if ends[model] > first:
                coder.encode_reverse(grouped[first : ends[model]], distributions[model])
    tables = zlib.compress(starts + models.tobytes() + costs.T.tobytes(), 9)
    words = coder.get_compressed().astype("<u4").tobytes()
    block: bytes = struct.pack("<IB", len(tables), len(costs)) + tables + words
    return block


def decode(data: bytes, shapes: Sequence[Shape4], largest: int, *, source: str) -> list[Array]:
    """The tensors that `encode` was given, int16.

    Args:
        data: what `encode` returned.
        shapes: [O, I, Y, X] of each; the caller has checked that they are not too large.
        largest: as for `encode`.
        source: the file's name, for errors.

    Raises:
        CorruptFile: the data is not what `encode` writes.
    """
    from constriction import stream

    starts, models, costs, words = _read_tables(data, len(shapes), largest, source)
    distributions = _distributions(costs, largest)
    try:
        coder = stream.stack.AnsCoder(words)
    except ValueError as error:
        raise CorruptFile(source, f"its weights are not a coded stream ({error})", _CORRUPT) from error
    groups = _grouped(shapes, starts)
    for step in (step for group in groups for step in _scan(group)):
        chosen = models[step.classes]
        counts = np.bincount(chosen, minlength=len(distributions))
        parts = [
            coder.decode(distributions[model], int(count)) for model, count in enumerate(counts) if count
        ]
        values = np.empty(chosen.size, np.int16)
        values[np.argsort(chosen, kind="stable")] = np.concatenate(parts)
        values -= largest
        step.write(step.turn(values))
    if not coder.is_empty():
        raise CorruptFile(source, "its weights do not end where they should", _CORRUPT)
    layers = sorted((layer for group in groups for layer in group.layers), key=lambda layer: layer.number)
    return [np.ascontiguousarray(layer.symbols.transpose(2, 3, 0, 1)) for layer in layers]


def passes(shape: Shape4) -> int:
    """How many passes a tensor is read in."""
    kernel = shape[2] * shape[3]
    return kernel if kernel > 1 else _TILES * _TILES


class _Pass(NamedTuple):
    """Symbols that are coded together."""

    views: list[Array]
    """Where they are, int16."""
    classes: Array
    """Class of each, uint8 [n]."""
    turned: Array | None
    """Whose sign is turned over, as the neighbours are negative; bool [n]."""

    def turn(self, values: Array) -> Array:
        """Turn those signs of `values` over, in place; its own inverse."""
        if self.turned is not None:
            mask = -self.turned.astype(np.int16)  # −1 or 0: (v ^ −1) − (−1) = −v
            values ^= mask
            values -= mask
        return values

    def write(self, values: Array) -> None:
        """Put decoded symbols in their places."""
        at = 0
        for view in self.views:
            view[...] = values[at : at + view.size].reshape(view.shape)
            at += view.size


class _Layer:
    """One tensor, and what its symbols so far say of those to come."""

    def __init__(self, number: int, symbols: Array, start: int) -> None:
        self.number, self.symbols = number, symbols  # [Y, X, O, I]
        self.rows, self.columns = _Channels(symbols.shape[2]), _Channels(symbols.shape[3])
        self.total, self.seen = _spread(start) * _START, _START

    def expect(self, tile: tuple[slice, slice], out: Array) -> None:
        """Write the magnitude that the channels expect of each symbol to `out` [o, i]."""
        mean = np.float32(self.total / self.seen)
        columns = self.columns.mean(tile[1], mean)
        columns /= mean
        np.multiply(self.rows.mean(tile[0], mean)[:, None], columns, out=out)

    def add(self, tile: tuple[slice, slice], size: Array) -> None:
        """Take note of magnitudes [o, i] that were read."""
        by_row = np.add.reduce(size, 1)
        self.rows.add(tile[0], by_row, size.shape[1])
        self.columns.add(tile[1], np.add.reduce(size, 0), size.shape[0])
        self.total += float(np.add.reduce(by_row, dtype=np.float64))
        self.seen += size.size


class _Channels:
    """Mean magnitude of each channel so far, drawn to the layer's, which counts for `_CHANNEL` symbols."""

    def __init__(self, count: int) -> None:
        self.sums, self.counts = np.zeros(count, np.float32), np.full(count, _CHANNEL)

    def mean(self, tile: slice, prior: np.float32) -> Array:
        found: Array = self.sums[tile] + _CHANNEL * prior
        found /= self.counts[tile]
        return found

    def add(self, tile: slice, sums: Array, count: int) -> None:
        self.sums[tile] += sums
        self.counts[tile] += np.float32(count)


class _Group(NamedTuple):
    """Layers with kernels of one size: few passes over many symbols take less time than many over few."""

    symbols: Array
    """Of all layers, one after the other, int16 [Y, X, n]; the layers' own are views of it."""
    layers: list[_Layer]


def _grouped(shapes: Sequence[Shape4], starts: bytes) -> list[_Group]:
    groups = []
    for kernel in sorted({shape[2:] for shape in shapes}):
        members = [(number, shape) for number, shape in enumerate(shapes) if shape[2:] == kernel]
        symbols = np.zeros((*kernel, sum(out * into for _, (out, into, *_) in members)), np.int16)
        layers, at = [], 0
        for number, (out, into, *_) in members:
            piece = symbols[:, :, at : at + out * into]
            layers.append(_Layer(number, piece.reshape(*kernel, out, into), starts[number]))
            at += out * into
        groups.append(_Group(symbols, layers))
    return groups


def _together(views: Sequence[Array]) -> Array:
    """Their symbols in a row: a copy."""
    return np.concatenate([view.ravel() for view in views])


def _scan(group: _Group) -> Iterator[_Pass]:
    """The passes over a group; a decoder writes each pass before it asks for the next."""
    height, width, number = group.symbols.shape
    tiles = 1 if height * width > 1 else _TILES
    kernels = np.zeros(number if tiles == 1 else 0, np.float32)
    for position in range(height * width * tiles * tiles):
        y, x = divmod(position, width) if tiles == 1 else (0, 0)
        tile = slice(position // tiles if tiles > 1 else 0, None, tiles), slice(position % tiles, None, tiles)
        views = [layer.symbols[y, x, *tile] for layer in group.layers]
        ends = np.cumsum([view.size for view in views]).tolist()
        if not ends[-1]:
            continue
        spread = np.empty(ends[-1], np.float32)
        parts = [(layer, spread[end - view.size : end].reshape(view.shape))
                 for layer, view, end in zip(group.layers, views, ends, strict=True) if view.size]  # fmt: skip
        for layer, part in parts:
            layer.expect(tile, part)
        if tiles == 1 and position:
            classes, turned = _in_kernel(group.symbols, y, x, spread, kernels)
        else:
            classes, turned = _scale_class(spread), None
        yield _Pass([group.symbols[y, x]] if tiles == 1 else views, classes, turned)
        np.abs(_together(views), out=spread, casting="unsafe")
        for layer, part in parts:
            layer.add(tile, part)
        if tiles == 1:
            kernels += spread


def _in_kernel(symbols: Array, y: int, x: int, spread: Array, kernels: Array) -> tuple[Array, Array]:
    """Classes at a position of the kernel, from the positions before it."""
    before = [symbols[y, x - 1]] if x else []
    if y:
        before.append(symbols[y - 1, x])
    number = np.float32(len(before))
    magnitude = np.abs(before[0]) if len(before) == 1 else np.abs(before[0]) + np.abs(before[1])
    pointing = before[0] if len(before) == 1 else before[0] + before[1]
    seen = np.float32(y * symbols.shape[1] + x)
    estimate = kernels + _KERNEL * spread
    estimate += _NEIGHBOUR * magnitude.astype(np.float32)
    estimate /= seen + _KERNEL + _NEIGHBOUR * number
    strength = np.abs(pointing).astype(np.float32)
    classes = _scale_class(estimate)
    estimate *= number
    classes += np.uint8(_SCALES) * (strength > _SOMEWHAT * estimate)
    classes += np.uint8(_SCALES) * (strength > _CLEARLY * estimate)
    return classes, pointing < 0


def _scale_class(estimate: Array) -> Array:
    """Two classes an octave, from the bits of the number: exponent and first bit of the fraction."""
    bits = np.ascontiguousarray(estimate).view(np.int32) >> 22
    bits -= _FIRST
    np.maximum(bits, 0, out=bits)  # np.clip takes three times as long on few numbers
    np.minimum(bits, _SCALES - 1, out=bits)
    classes: Array = bits.astype(np.uint8)
    return classes


def _spread(start: int) -> float:
    """The smallest number of a scale class."""
    return float(np.array([(start + _FIRST) << 22], np.int32).view(np.float32)[0])


def _start(symbols: Array) -> int:
    return int(_scale_class(np.array([np.abs(symbols).mean() if symbols.size else 0], np.float32))[0])


def _merge(counts: Array) -> Array:
    """Which distribution each class uses: neighbouring classes of few symbols share one. uint8 [120]."""
    models = np.zeros(_CLASSES, np.uint8)
    model, gathered = 0, 0
    for number, count in enumerate(counts):
        if number % _SCALES == 0 and number and gathered:
            model, gathered = model + 1, 0  # agreement of neighbours is never mixed
        models[number] = model
        gathered += int(count)
        if gathered >= _FEWEST and counts[number + 1 : (number // _SCALES + 1) * _SCALES].sum() >= _FEWEST:
            model, gathered = model + 1, 0
    used = np.unique(models)
    renumbered: Array = np.searchsorted(used, models).astype(np.uint8)
    return renumbered


def _knots(largest: int) -> Array:
    """Symbols whose cost is stored; between them it is interpolated."""
    positive = sorted({knot for knot in _KNOTS if knot < largest} | {largest})
    return np.array([-knot for knot in reversed(positive) if knot] + positive, np.int64)


def _fit(counts: Array, largest: int) -> Array:
    """Cost of each knot in eighths of a bit above the cheapest, uint8."""
    knots = _knots(largest)
    symbols = np.arange(-largest, largest + 1)
    hats = np.stack([np.interp(symbols, knots, row) for row in np.eye(len(knots))])
    density = (hats @ counts + 0.02 * hats.sum(1)) / hats.sum(1)
    bits = -np.log2(density)
    cost: Array = np.rint(8 * (bits - bits.min())).clip(0, 255).astype(np.uint8)
    return cost


def _distributions(costs: Array, largest: int) -> list[Any]:
    """The distributions over −largest … largest of stored costs [distribution, knot]."""
    from constriction import stream

    rows = _frequencies(costs, largest).astype(np.float64, order="C")
    return [stream.model.Categorical(row, perfect=False) for row in rows]


def _frequencies(costs: Array, largest: int) -> Array:
    """Whole numbers in proportion to the probabilities: the same on every machine."""
    knots = _knots(largest)
    symbols = np.arange(-largest, largest + 1)
    left = np.clip(np.searchsorted(knots, symbols, side="right") - 1, 0, len(knots) - 2)
    width, offset = knots[left + 1] - knots[left], symbols - knots[left]
    doubled = 2 * costs.astype(np.int64)
    sixteenths = (doubled[:, left] * (width - offset) + doubled[:, left + 1] * offset) // width
    found: Array = np.maximum(_EXP2[sixteenths % 16] >> (sixteenths // 16), 1)
    return found


def _read_tables(data: bytes, tensors: int, largest: int, source: str) -> tuple[bytes, Array, Array, Array]:
    """First estimates, distribution of each class, costs of each distribution, coded words."""
    if len(data) < 5:
        raise CorruptFile(source, "a block of weights is too short", _CORRUPT)
    size, number = struct.unpack_from("<IB", data)
    expected = tensors + _CLASSES + number * len(_knots(largest))
    inflate = zlib.decompressobj()
    try:
        tables = inflate.decompress(data[5 : 5 + size], expected + 1)
    except zlib.error as error:
        raise CorruptFile(source, f"its tables do not unpack ({error})", _CORRUPT) from error
    words = data[5 + size :]
    if len(tables) != expected or not number or len(words) % 4:
        raise CorruptFile(source, "its tables have the wrong size", _CORRUPT)
    starts, rest = tables[:tensors], np.frombuffer(tables[tensors:], np.uint8)
    models, costs = rest[:_CLASSES], rest[_CLASSES:].reshape(-1, number).T
    if models.max() >= number or max(starts, default=0) >= _SCALES:
        raise CorruptFile(source, "its tables contradict themselves", _CORRUPT)
    return starts, models, costs, np.frombuffer(words, "<u4").astype(np.uint32)
