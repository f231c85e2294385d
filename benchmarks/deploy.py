"""Latency of deployed files against eager PyTorch and the quantizers of ONNX Runtime and NNCF, in turns.

    python benchmarks/deploy.py --model resnet18 --size 224 --threads 2 --repeats 100 --nncf peers/bin/python
    python benchmarks/deploy.py --all --nncf peers/bin/python

Random weights: speed does not depend on them. Every contender sees the same image at batch 1. NNCF runs
in a Python of its own (`--nncf`), its file in the OpenVINO of this one, opened as ours are.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pintsize as ps
from pintsize.deploy.runtime import size_of
from pintsize.measure import machine, side_by_side

EAGER, FP32, PEER, INT8 = "eager PyTorch fp32", "ONNX fp32", "ONNX Runtime quantize_static", "pintsize int8"
PRUNED, SMALL = "pruned fp32", "pruned + pintsize int8"
NNCF, IN_OPENVINO, IN_EXECUTORCH = "NNCF, OpenVINO", "OpenVINO", "ExecuTorch"
MODELS = (
    ("resnet18", 224, "auto"), ("resnet50", 224, "auto"), ("mobilenetv2", 224, "auto"), ("vgg16-bn", 32, "small"),
    ("resnet32", 32, "small"), ("shufflenetv2-x1.0", 224, "auto"), ("alexnet", 224, "auto"),
)  # fmt: skip
_NNCF = """
import sys, numpy as np, nncf, openvino
model = openvino.Core().read_model(sys.argv[1])
images = np.load(sys.argv[2])
model.reshape([1, *images.shape[1:]])
quantized = nncf.quantize(model, nncf.Dataset([image[None] for image in images]))
openvino.save_model(quantized, sys.argv[3], compress_to_fp16=False)
"""


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


def nncf_int8(python: Path, source: Path, target: Path, images: Tensor) -> None:
    """NNCF's post-training quantization of the fp32 file, with its defaults."""
    np.save(target.with_suffix(".npy"), images.numpy())
    command = [python, "-c", _NNCF, source, target.with_suffix(".npy"), target]
    subprocess.run(command, check=True, capture_output=True)


def contenders(
    model: nn.Module, images: Tensor, folder: Path, options: argparse.Namespace
) -> dict[str, tuple[Path, str]]:
    """Write every file; name → path and backend."""
    example = images[:1]
    files = {name: folder / f"{number}.onnx" for number, name in enumerate((FP32, PEER, INT8, PRUNED, SMALL))}
    ps.export(model, files[FP32], example=example)
    peer_int8(files[FP32], files[PEER], images)
    quantized = copy.deepcopy(model)
    ps.quantize(quantized, calibration=[images], method="minmax")
    ps.export(quantized, files[INT8], example=example)
    pruned = copy.deepcopy(model)
    ps.prune(pruned, example, macs=options.macs, round_to=8)
    ps.export(pruned, files[PRUNED], example=example)
    ps.quantize(pruned, calibration=[images], method="minmax")
    ps.export(pruned, files[SMALL], example=example)
    found = {name: (path, "onnxruntime") for name, path in files.items()}
    if options.nncf is None:
        print("NNCF: skipped, pass --nncf")
    else:
        nncf_int8(options.nncf, files[FP32], folder / "nncf.xml", images)
        found[NNCF] = (folder / "nncf.xml", "openvino")
    for name in (INT8, SMALL):
        found[f"{name}, {IN_OPENVINO}"] = (files[name], "openvino")
    if options.executorch:
        for name, network in ((INT8, quantized), (SMALL, pruned)):
            path = files[name].with_suffix(".pte")
            ps.export(network, path, example=example)
            found[f"{name}, {IN_EXECUTORCH}"] = (path, "executorch")
    return found


def kept(folder: Path) -> dict[str, tuple[Path, str]]:
    """The contenders that an earlier run left in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / "contenders.json"
    found = json.loads(listed.read_text()) if listed.exists() else {}
    return {key: (folder / name, backend) for key, (name, backend) in found.items()}


def measure(name: str, size: int, stem: str, options: argparse.Namespace) -> dict[str, Any]:
    """All contenders of one network."""
    torch.manual_seed(0)
    known = {} if stem == "auto" else {"stem": stem}
    model = ps.models.create(name, num_classes=1000 if size >= 128 else 10, **known).eval()
    images = torch.randn(8, 3, size, size)
    with contextlib.ExitStack() as stack:
        folder = (
            options.keep / name if options.keep else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        )
        files = kept(folder) or contenders(model, images, folder, options)
        (folder / "contenders.json").write_text(
            json.dumps({key: [path.name, backend] for key, (path, backend) in files.items()})
        )
        if options.write_only:
            return {}
        runtimes = {
            key: ps.open_runtime(path, backend=backend, threads=options.threads)
            for key, (path, backend) in files.items()
        }
        calls: dict[str, Callable[[Any], Any]] = {
            EAGER: ps.open_runtime(model, threads=options.threads),
            **runtimes,
        }
        image: np.ndarray[Any, Any] = images[:1].numpy()
        times = side_by_side(calls, image, repeats=options.repeats, threads=options.threads)
        rows = []
        for key, latency in times.items():
            nodes = (runtimes[key].integer_nodes() if key in files else None) or {"integer": {}, "float": {}}
            rows.append({
                "name": key, "median_ms": latency.median_ms, "p95_ms": latency.p95_ms,
                "over_eager": times[EAGER].median_ms / latency.median_ms,
                "over_fp32": times[FP32].median_ms / latency.median_ms,
                "bytes": size_of(files[key][0]) if key in files else None,
                "integer_nodes": sum(nodes["integer"].values()), "float_nodes": sum(nodes["float"].values()),
            })  # fmt: skip
    return {"model": name, "size": size, "stem": stem, "rows": rows, "over_best_peer": _over_best_peer(times)}


def _over_best_peer(times: dict[str, Any]) -> float:
    """Our int8 in the best runtime over the best peer's; below 1 is faster."""
    ours = min(latency.median_ms for key, latency in times.items() if key.startswith(INT8))
    return ours / min(times[key].median_ms for key in (PEER, NNCF) if key in times)


def show(found: dict[str, Any], options: argparse.Namespace) -> None:
    size = found["size"]
    print(f"\n{found['model']}, {size}×{size}, batch 1, {options.threads} threads, {options.repeats} turns")
    print(f"{'':36}{'median ms':>10}{'p95 ms':>9}{'× eager':>9}{'× fp32':>8}{'MB':>8}{'int':>5}{'float':>6}")
    for row in found["rows"]:
        megabytes = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.2f}"
        print(
            f"{row['name']:36}{row['median_ms']:10.2f}{row['p95_ms']:9.2f}{row['over_eager']:9.2f}{row['over_fp32']:8.2f}"
            f"{megabytes:>8}{row['integer_nodes']:5d}{row['float_nodes']:6d}"
        )
    print(f"our int8 over the best peer's: {found['over_best_peer']:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--stem", default="auto")
    parser.add_argument("--all", action="store_true", help="the seven networks of the documentation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--macs", type=float, default=0.5, help="fraction of the MACs that pruning keeps")
    parser.add_argument("--nncf", type=Path, help="a Python that has nncf and openvino installed")
    parser.add_argument("--executorch", action="store_true", help="time our files in ExecuTorch, too")
    parser.add_argument(
        "--keep", type=Path, help="folder for the files; those that are there are not written anew"
    )
    parser.add_argument("--write-only", action="store_true", help="write the files, time nothing")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    found = []
    for name, size, stem in MODELS if options.all else ((options.model, options.size, options.stem),):
        measured = measure(name, size, stem, options)
        if measured:
            found.append(measured)
            show(measured, options)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "results": found}, indent=1))


if __name__ == "__main__":
    main()
