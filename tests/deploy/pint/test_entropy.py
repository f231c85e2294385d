"""The entropy coder: round trips, sizes, and a second decoder written from docs/format.md alone."""

import struct
import zlib
from typing import NamedTuple

import numpy as np
import pytest

from pintsize import errors
from pintsize.deploy.pint import entropy


def entropy_bytes(symbols: np.ndarray) -> float:
    _, counts = np.unique(symbols, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


def channelled(shape, largest, seed=0):
    """Laplacian weights whose channels differ in spread, as in a trained network."""
    generator = np.random.default_rng(seed)
    out, into, _, width = shape
    spread = np.exp(generator.normal(0, 0.5, (out, 1, 1, 1)) + generator.normal(0, 0.5, (1, into, 1, 1)))
    values = generator.laplace(0, 1, shape) * spread
    values += np.roll(values, 1, 3) if width > 1 else 0
    return np.clip(np.rint(values * largest / np.abs(values).max()), -largest, largest).astype(np.int64)


SHAPES = [
    (16, 3, 3, 3),
    (32, 16, 3, 3),
    (10, 64, 1, 1),
    (24, 1, 5, 5),
    (7, 3, 1, 3),
    (64, 1, 1, 1),
    (2, 40, 1, 1),
]


@pytest.mark.parametrize("largest", [1, 2, 7, 8, 127, 255])
def test_round_trip(largest):
    tensors = [channelled(shape, largest, seed) for seed, shape in enumerate(SHAPES)]
    data = entropy.encode(tensors, largest)
    found = entropy.decode(data, SHAPES, largest, source="test")
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, tensors, strict=True))


def test_zeros_and_extremes():
    tensors = [np.zeros((8, 8, 3, 3), np.int64), np.full((8, 8, 3, 3), -127), np.full((8, 16, 1, 1), 127)]
    data = entropy.encode(tensors, 127)
    found = entropy.decode(data, [t.shape for t in tensors], 127, source="test")
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, tensors, strict=True))
    assert len(data) < 400


@pytest.mark.parametrize(("largest", "gain"), [(1, 0.85), (7, 0.9), (127, 0.97)])
def test_beats_the_entropy_that_knows_no_channels(largest, gain):
    symbols = channelled((128, 64, 3, 3), largest)
    assert len(entropy.encode([symbols], largest)) < gain * entropy_bytes(symbols) + 300


def test_identically_distributed_symbols_cost_their_entropy():
    symbols = (
        np.rint(np.random.default_rng(0).normal(0, 20, (128, 128, 3, 3))).clip(-127, 127).astype(np.int64)
    )
    assert len(entropy.encode([symbols], 127)) < 1.005 * entropy_bytes(symbols)


def test_damaged_blocks_raise_or_give_other_symbols():
    symbols = channelled((16, 16, 3, 3), 7)
    data = entropy.encode([symbols], 7)
    generator = np.random.default_rng(0)
    for _ in range(100):
        broken = bytearray(data[: generator.integers(len(data))] if generator.random() < 0.3 else data)
        if broken:
            broken[generator.integers(len(broken))] ^= 1 << int(generator.integers(8))
        try:
            found = entropy.decode(bytes(broken), [symbols.shape], 7, source="test")
        except errors.CorruptFile:
            continue
        assert found[0].shape == symbols.shape
        assert np.abs(found[0]).max() <= 7


# --- a second implementation, as slow and as plain as the specification ---------------------------

KNOTS = [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 126, 127, 160, 192, 224, 254, 255]
EXP2 = [round(2 ** (24 - j / 16)) for j in range(16)]
F = np.float32


def bits(number):
    return struct.unpack("<I", struct.pack("<f", number))[0]


def scale_class(number):
    return min(max((bits(number) >> 22) - 230, 0), 39)


class Stack:
    """The coded words, a 64-bit state above them."""

    def __init__(self, words):
        self.words, self.state = list(words), 0
        for _ in range(2):
            if self.words:
                self.state = self.state << 32 | self.words.pop()

    def symbol(self, frequencies):
        scale = float(2**24 - len(frequencies)) / float(sum(frequencies))
        quantile, cumulated, before = self.state & (2**24 - 1), 0, []
        for index, frequency in enumerate(frequencies):
            before.append(int(float(cumulated) * scale) + index)
            cumulated += frequency
        before.append(2**24)
        index = max(i for i, start in enumerate(before[:-1]) if start <= quantile)
        self.state = (self.state >> 24) * (before[index + 1] - before[index]) + quantile - before[index]
        if self.state < 2**32 and self.words:
            self.state = self.state << 32 | self.words.pop()
        return index


def frequencies_of(cost, knots, largest):
    found = []
    for symbol in range(-largest, largest + 1):
        left = max(i for i in range(len(knots) - 1) if knots[i] <= symbol)
        width, offset = knots[left + 1] - knots[left], symbol - knots[left]
        sixteenths = (2 * cost[left] * (width - offset) + 2 * cost[left + 1] * offset) // width
        found.append(max(EXP2[sixteenths % 16] >> sixteenths // 16, 1))
    return found


def slow_decode(data, shapes, largest):
    size, number = struct.unpack_from("<IB", data)
    tables = zlib.decompress(data[5 : 5 + size])
    starts, models, rest = tables[: len(shapes)], tables[len(shapes) :][:120], tables[len(shapes) + 120 :]
    positive = sorted({k for k in KNOTS if k < largest} | {largest})
    knots = [-k for k in reversed(positive) if k] + positive
    tables = [frequencies_of(rest[m::number], knots, largest) for m in range(number)]
    stack = Stack(struct.unpack(f"<{(len(data) - 5 - size) // 4}I", data[5 + size :]))
    found = [np.zeros(shape, int) for shape in shapes]
    for kernel in sorted({shape[2:] for shape in shapes}):
        group = [
            slow_layer(w, start, models)
            for w, start in zip(found, starts, strict=True)
            if w.shape[2:] == kernel
        ]
        for steps in zip(*group, strict=True):
            for model in range(len(tables)):
                for cells in steps:
                    for cell in cells:
                        if cell.model == model:
                            symbol = stack.symbol(tables[model]) - largest
                            cell.weights[cell.at] = -symbol if cell.turned else symbol
    return found


class Cell(NamedTuple):
    weights: np.ndarray
    at: tuple[int, int, int, int]
    model: int
    turned: bool


def slow_layer(w, start, models):
    """The cells of each pass; those of a pass are filled in when the next is asked for."""
    out, into, height, width = w.shape
    rows, columns = [[F(0), F(0)] for _ in range(out)], [[F(0), F(0)] for _ in range(into)]
    kernels = [[F(0)] * into for _ in range(out)]
    total, seen = float(struct.unpack("<f", struct.pack("<I", (start + 230) << 22))[0]) * 16.0, 16.0
    tiles = 1 if height * width > 1 else 4
    for position in range(height * width * tiles * tiles):
        y, x = divmod(position, width) if tiles == 1 else (0, 0)
        cells = [
            (o, i) for o in range(position // tiles if tiles > 1 else 0, out, tiles)
            for i in range(position % tiles if tiles > 1 else 0, into, tiles)
        ]  # fmt: skip
        mean = F(total / seen)
        chosen = []
        for o, i in cells:
            row = (rows[o][0] + F(4) * mean) / (rows[o][1] + F(4))
            column = (columns[i][0] + F(4) * mean) / (columns[i][1] + F(4))
            estimate, step, turned = row * (column / mean), 0, False
            if tiles == 1 and position:
                before = ([w[o, i, y, x - 1]] if x else []) + ([w[o, i, y - 1, x]] if y else [])
                estimate = kernels[o][i] + F(4) * estimate
                estimate = estimate + F(2) * F(sum(abs(b) for b in before))
                estimate = estimate / (F(position) + F(4) + F(2) * F(len(before)))
                strength, turned = F(abs(sum(before))), sum(before) < 0
                there = estimate * F(len(before))
                step = int(strength > F(0.4) * there) + int(strength > F(1) * there)
            chosen.append(Cell(w, (o, i, y, x), models[40 * step + scale_class(estimate)], turned))
        yield chosen
        for o, i in cells:
            size = F(abs(w[o, i, y, x]))
            for channel in (rows[o], columns[i]):
                channel[0], channel[1] = channel[0] + size, channel[1] + F(1)
            kernels[o][i] += size if tiles == 1 else F(0)
            total, seen = total + float(size), seen + 1


@pytest.mark.parametrize("largest", [1, 7, 127])
def test_second_implementation_agrees(largest):
    shapes = [(6, 5, 3, 3), (9, 7, 1, 1), (4, 3, 1, 5), (3, 8, 3, 3), (2, 3, 1, 1)]
    tensors = [channelled(shape, largest, seed) for seed, shape in enumerate(shapes)]
    found = slow_decode(entropy.encode(tensors, largest), shapes, largest)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, tensors, strict=True))
