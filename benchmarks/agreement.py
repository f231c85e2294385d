"""Whether the deployed file decides as the simulated network does, for every network of the zoo and every runtime.

    python benchmarks/agreement.py --out runs/agreement
    python benchmarks/agreement.py --out runs/agreement --models resnet18 --backends onnxruntime

Each network is trained on a few thousand images first (its weights stay in `--out`, as do the figures; a second run
goes on from them), quantized to W8A8 and to W4A8, written to ONNX and to ExecuTorch, and run on the same test images.
What is counted is the percentage of them with the same top-1 class as in the simulation in float64, whose sums are
exact as those of integers are; beside it the same for the simulation in float32, whose sums are not.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pintsize as ps
from pintsize.measure import machine
from pintsize.quant import exact_simulation
from pintsize.storage.atomic import write_text
from ptq import some_images, trained

BACKENDS = {"onnxruntime": "onnx", "openvino": "onnx", "executorch": "pte"}


@torch.no_grad()
def outputs(run: Any, images: Tensor) -> Tensor:
    return torch.cat([torch.as_tensor(run(batch)) for batch in images.split(250)])


def row(dense: nn.Module, data: ps.data.Data, weights: int, options: argparse.Namespace) -> dict[str, Any]:
    """Agreement in every runtime, percent, and the accuracy of the simulation."""
    model = copy.deepcopy(dense).eval()
    ps.quantize(
        model, weights=weights, calibration=data.train.subset(256, options.seed), method=options.method,
        iterations=options.iterations, progress=False,
    )  # fmt: skip
    images, labels = next(data.test.batches(len(data.test)))
    images = images.contiguous()
    simulated = {"": outputs(exact_simulation(model), images.double()), " fp32": outputs(model, images)}
    found: dict[str, Any] = {"accuracy": 100 * float((simulated[""].argmax(1) == labels).double().mean())}
    found |= {"fp32": _agreement(simulated[" fp32"], simulated[""])}
    for backend in options.backends:
        path = options.out / f"net.{BACKENDS[backend]}"
        ps.export(model, path, example=images[:1])
        runtime = ps.open_runtime(path, backend=backend, threads=options.threads)
        made = outputs(runtime, images)
        runtime.close()
        for kind, reference in simulated.items():
            found[f"{backend}{kind}"] = _agreement(made, reference)
            found[f"{backend} error{kind}"] = float((made - reference).abs().mean() / reference.abs().mean())
    return found


def _agreement(one: Tensor, other: Tensor) -> float:
    return 100 * float((one.argmax(1) == other.argmax(1)).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=ps.models.list())
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=list(BACKENDS))
    parser.add_argument("--weights", nargs="+", type=int, default=[8, 4], help="bits")
    parser.add_argument("--method", default="mse")
    parser.add_argument("--iterations", type=int, default=200, help="of learned rounding, with method best")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and figures")
    parser.add_argument("--stem", default="small", choices=("small", "imagenet"))
    parser.add_argument("--train-images", type=int, default=12000)
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    data = some_images(options)
    results = options.out / "agreement.json"
    done: dict[str, dict[str, Any]] = json.loads(results.read_text()) if results.exists() else {}
    for name in options.models:
        for weights in options.weights:
            key = f"{name} W{weights}A8"
            if key not in done:
                dense = trained(name, data, options, stem=options.stem, augment=False)
                done[key] = row(dense, data, weights, options)
                write_text(results, json.dumps(done, indent=1))
                print(key, done[key], flush=True)
    print(f"\n{options.method}, {data.name}, {len(data.test)} test images; {machine()['cpu']}")
    print(f"| network | accuracy | float32 simulation | {' | '.join(options.backends)} |")
    print("|---" * (3 + len(options.backends)) + "|")
    for key, found in done.items():
        cells = [
            f"{found[backend]:.1f} ({found[f'{backend} fp32']:.1f})" if backend in found else ""
            for backend in options.backends
        ]
        print(f"| {key} | {found['accuracy']:.1f} | {found['fp32']:.1f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
