"""Bytes of `.pint` files beside the entropy of their symbols, the NNC standard's coder, xz and zstd.

    python benchmarks/pint.py --weights resnet32=resnet32.safetensors --nncodec peers/bin/python

Per network and form: W8, W4 (per-channel round-to-nearest), k-means 5, 5 % density (the largest weights
of each layer, 8 bits). `entropy` is the zeroth-order entropy of each layer's symbols, to which the side
information (scales, biases, codebooks, everything else, as `.pint` stores it) is added. `nncodec` codes
the same integers, in a Python of its own that has it installed; its side information is not counted.
xz −9e and zstd −19 compress the integers as bytes. Networks without --weights have random ones.
"""

from __future__ import annotations

import argparse
import copy
import json
import lzma
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import pintsize as ps
from pintsize.deploy.pint import entropy
from pintsize.deploy.pint import format as pint
from pintsize.deploy.pint.tensors import as_entries, four_dimensional
from pintsize.measure import machine

_PEER = """
import sys
from unittest.mock import MagicMock
for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.models",
             "torchvision.transforms.functional", "flwr", "timm", "cv2", "h5py", "transformers", "datasets"):
    sys.modules.setdefault(name, MagicMock())  # its examples want them, its coder does not
import numpy as np, torch
from nncodec import tensor
total = 0
for values in np.load(sys.argv[1]).values():
    coded = tensor.encode(torch.from_numpy(values.astype(np.int32)),
                          {"use_dq": False, "param_opt": True, "qp": 0, "results": sys.argv[2]})
    assert (tensor.decode(coded) == values).all()
    total += len(coded)
print(total)
"""


def quantized(bits: int) -> Callable[[nn.Module, torch.Tensor], None]:
    return lambda model, images: ps.quantize(
        model,
        weights=bits,
        activations=None,
        edges=None,
        calibration=[images],
        example=images,
        method="minmax",
    )


def clustered(model: nn.Module, _: torch.Tensor) -> None:
    ps.cluster(model, k=5)


def sparse(model: nn.Module, images: torch.Tensor) -> None:
    """The largest 5 % of each layer, then 8 bits."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                size = module.weight.abs().flatten()
                threshold = size.kthvalue(max(1, int(0.95 * len(size)))).values
                module.weight.mul_(module.weight.abs() > threshold)
    quantized(8)(model, images)


FORMS = {"W8": quantized(8), "W4": quantized(4), "k-means 5": clustered, "5 % density": sparse}


def entropy_bytes(symbols: np.ndarray[Any, Any]) -> float:
    counts = np.unique(symbols, return_counts=True)[1]
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum() * symbols.size / 8)


def peer_bytes(python: Path | None, tensors: list[np.ndarray[Any, Any]]) -> int | None:
    if python is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/tensors.npz", *tensors)
        done = subprocess.run(
            [python, "-c", _PEER, f"{folder}/tensors.npz", folder], capture_output=True, text=True, check=True
        )
    return int(done.stdout.split()[-1])


def decode_rate(tensors: list[np.ndarray[Any, Any]]) -> float:
    """Million weights a second, median of five."""
    largest = max(int(np.abs(t).max()) for t in tensors)
    data = entropy.encode(tensors, largest)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        entropy.decode(data, [t.shape for t in tensors], largest, source="benchmark")
        times.append(time.perf_counter() - start)
    return sum(t.size for t in tensors) / float(np.median(times)) / 1e6


def row(model: nn.Module, name: str, form: str, options: argparse.Namespace) -> dict[str, Any]:
    content, details = pint.pack(model)
    entries, _ = as_entries(model)
    tensors = [four_dimensional(entry) for entry in entries if entry.symbols is not None]
    raw = b"".join(t.astype(np.int8).tobytes() for t in tensors)
    try:
        import zstandard
    except ImportError:
        zstd = None
    else:
        zstd = len(zstandard.ZstdCompressor(level=19).compress(raw))
    ideal = sum(entropy_bytes(t) for t in tensors)
    side = len(content) - details["symbols"]
    return {
        "model": name, "form": form, "weights": sum(t.size for t in tensors),
        "pint": len(content), "symbols": details["symbols"],
        "side": side, "entropy": round(ideal), "over_entropy": len(content) / (ideal + side),
        "nncodec": peer_bytes(options.nncodec, tensors), "xz": len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)),
        "zstd": zstd, "decode_mws": decode_rate(tensors),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["resnet32", "mobilenetv2", "vgg16-bn"])
    parser.add_argument("--weights", nargs="*", default=[], help="model=file.safetensors")
    parser.add_argument("--channels", type=int, default=3, help="of the images")
    parser.add_argument("--nncodec", type=Path, help="a Python that has nncodec installed")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    given = dict(pair.split("=", 1) for pair in options.weights)
    print(machine())
    if options.nncodec is None:
        print("nncodec: skipped, pass --nncodec")
    heads = (
        "model",
        "form",
        "weights",
        "pint",
        "symbols",
        "side",
        "entropy",
        "over_entropy",
        "nncodec",
        "xz",
        "zstd",
        "decode_mws",
    )
    print("  ".join(f"{head:>12}" for head in heads))
    rows = []
    for name in options.models:
        model = ps.models.create(name, num_classes=10, in_channels=options.channels, stem="small").eval()
        if name in given:
            model = ps.load(given[name], model=model)
        for form, compress in FORMS.items():
            small = copy.deepcopy(model)
            compress(small, torch.randn(8, options.channels, 32, 32))
            rows.append(row(small, name, form, options))
            cells = (
                f"{value:.4g}" if isinstance(value, float) else str(value) for value in rows[-1].values()
            )
            print("  ".join(f"{cell:>12}" for cell in cells), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
