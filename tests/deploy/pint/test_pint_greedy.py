"""Small `.pint` files with a right checksum that ask for much memory or time."""

import hashlib
import json
import lzma
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest

from pintsize import errors
from pintsize.deploy.pint import entropy
from pintsize.deploy.pint import format as pint


def write(path, tensors, blocks, contents, document=None, version=1):
    header = {
        "document": document or {"format": 1, "model": None, "steps": [], "aliases": {}},
        "about": {}, "tensors": tensors, "blocks": blocks,
    }  # fmt: skip
    text = json.dumps(header).encode()
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**20, "lc": 3, "lp": 0, "pb": 0}]
    packed = zlib.compress(text, 9) if version == 1 else lzma.compress(text, lzma.FORMAT_RAW, filters=filters)
    body = pint.MAGIC + struct.pack("<II", version, len(packed)) + packed + b"".join(contents)
    path.write_bytes(body + hashlib.sha256(body).digest())


def refused(path, match):
    """Within a few seconds and a few megabytes."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(errors.CorruptFile, match=match):
            pint.read_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24 + 400 * path.stat().st_size
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < 20


def test_a_scale_for_each_of_other_numbers(tmp_path):
    """Multiplied, the two would have 16,000 × 16,000 numbers."""
    count = 16000
    block = entropy.encode([np.ones((count, 1, 1, 1), np.int16)], 1)
    planes = zlib.compress(bytes(4 * count), 9)
    write(
        tmp_path / "net.pint",
        [["weight", "float32", [count, 1], "integers", {"scale": "s", "axis": -1}], ["s", "float32", [count], "plain", {}]],
        [{"kind": "symbols", "largest": 1, "tensors": [0], "bytes": len(block)},
         {"kind": "planes", "size": 4, "tensors": [1], "bytes": len(planes)}],
        [block, planes],
    )  # fmt: skip
    refused(tmp_path / "net.pint", "the scale of 'weight' does not fit it")


def test_many_kernels_of_many_sizes(tmp_path):
    """A pass for each number of the file."""
    shapes = [(1, 1, y, x) for y in range(40, 64) for x in range(40, 64)][:20]
    tables = zlib.compress(bytes(len(shapes) + 120 + 3), 9)
    block = struct.pack("<IB", len(tables), 1) + tables + struct.pack("<II", 1, 1)
    write(
        tmp_path / "net.pint",
        [[f"t{number}", "float32", list(shape), "sparse", {}] for number, shape in enumerate(shapes)],
        [{"kind": "symbols", "largest": 1, "tensors": list(range(len(shapes))), "bytes": len(block)}],
        [block],
    )
    refused(tmp_path / "net.pint", "passes")


@pytest.mark.parametrize("version", [1, 2])
def test_a_long_header(tmp_path, version):
    write(tmp_path / "net.pint", [], [], [], document={"steps": [{}] * 3_000_000}, version=version)
    refused(tmp_path / "net.pint", "header unpacks to more")
