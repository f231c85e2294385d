"""Latency of deployed files against eager PyTorch and ONNX Runtime's own quantizer, in turns in one run.

    python benchmarks/deploy.py --model resnet18 --size 224 --threads 2 --repeats 100

Random weights: speed does not depend on them. Every contender sees the same image at batch 1.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pintsize as ps
from pintsize.deploy import integer_nodes
from pintsize.measure import machine, side_by_side

EAGER, FP32, PEER, INT8 = "eager PyTorch fp32", "ONNX fp32", "ONNX Runtime quantize_static", "pintsize int8"
PRUNED, SMALL = "pruned fp32", "pruned + pintsize int8"


def peer_int8(source: Path, target: Path, images: Tensor) -> None:
    """ONNX Runtime's own static quantization: QDQ, per channel, with its recommended preprocessing."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter({"input": image[None].numpy()} for image in images)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip


def contenders(model: nn.Module, images: Tensor, folder: Path, macs: float) -> dict[str, Path]:
    """Write every file; name → path."""
    example = images[:1]
    files = {name: folder / f"{number}.onnx" for number, name in enumerate((FP32, PEER, INT8, PRUNED, SMALL))}
    ps.export(model, files[FP32], example=example)
    peer_int8(files[FP32], files[PEER], images)
    quantized = copy.deepcopy(model)
    ps.quantize(quantized, calibration=[images], method="minmax")
    ps.export(quantized, files[INT8], example=example)
    pruned = copy.deepcopy(model)
    ps.prune(pruned, example, macs=macs, round_to=8)
    ps.export(pruned, files[PRUNED], example=example)
    ps.quantize(pruned, calibration=[images], method="minmax")
    ps.export(pruned, files[SMALL], example=example)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--stem", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--macs", type=float, default=0.5, help="fraction of the MACs that pruning keeps")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    known = {} if options.stem == "auto" else {"stem": options.stem}
    model = ps.models.create(options.model, num_classes=1000 if options.size >= 128 else 10, **known).eval()
    images = torch.randn(8, 3, options.size, options.size)
    with tempfile.TemporaryDirectory() as name:
        files = contenders(model, images, Path(name), options.macs)
        runtimes = {key: ps.open_runtime(path, threads=options.threads) for key, path in files.items()}
        eager = ps.open_runtime(model, threads=options.threads)
        calls: dict[str, Callable[[Any], Any]] = {EAGER: eager, **runtimes}
        image: np.ndarray[Any, Any] = images[:1].numpy()
        times = side_by_side(calls, image, repeats=options.repeats, threads=options.threads)
        rows = []
        for key, latency in times.items():
            nodes = integer_nodes(files[key]) if key in files else {"integer": {}, "float": {}}
            rows.append({
                "name": key, "median_ms": latency.median_ms, "p95_ms": latency.p95_ms,
                "over_eager": times[EAGER].median_ms / latency.median_ms,
                "over_fp32": times[FP32].median_ms / latency.median_ms,
                "bytes": files[key].stat().st_size if key in files else None,
                "integer_nodes": sum(nodes["integer"].values()), "float_nodes": sum(nodes["float"].values()),
            })  # fmt: skip
    about = machine()
    print(
        f"{options.model}, {options.size}×{options.size}, batch 1, {options.threads} threads, {options.repeats} turns"
    )
    print(about)
    print(f"{'':30}{'median ms':>10}{'p95 ms':>9}{'× eager':>9}{'× fp32':>8}{'MB':>8}{'int':>5}{'float':>6}")
    for row in rows:
        size = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.2f}"
        print(
            f"{row['name']:30}{row['median_ms']:10.2f}{row['p95_ms']:9.2f}{row['over_eager']:9.2f}{row['over_fp32']:8.2f}"
            f"{size:>8}{row['integer_nodes']:5d}{row['float_nodes']:6d}"
        )
    if options.json:
        options.json.write_text(
            json.dumps({"machine": about, **vars(options), "json": None, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
