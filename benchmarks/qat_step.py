"""Cost of a training step with quantizers over one without, taking turns in one run.

    python benchmarks/qat_step.py --models resnet32 mobilenetv2 --batch-size 128 --precision fp32

Peers (torchao's PT2E QAT, Brevitas) are measured where they are installed; they are for benchmarks only. Every contender
does forward, backward and an SGD step on the same random images.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pintsize as ps
from pintsize.measure import machine
from pintsize.training.placement import layout_for

Step = Callable[[], object]


def torchao_qat(model: nn.Module, images: Tensor) -> nn.Module:
    """W8A8 by PyTorch's exported-graph flow: observers and fake quantizers after batch-norm simulation."""
    from torchao.quantization.pt2e import move_exported_model_to_train
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    config = get_default_x86_inductor_quantization_config(is_qat=True)
    exported = torch.export.export(model.train(), (images,)).module()
    return move_exported_model_to_train(prepare_qat_pt2e(exported, X86InductorQuantizer().set_global(config)))


def brevitas_qat(model: nn.Module, images: Tensor) -> nn.Module:
    """W8A8 by Brevitas' graph flow, which merges batch norms first; layer by layer where it cannot trace."""
    from brevitas.graph.quantize import layerwise_quantize, preprocess_for_quantize, quantize

    try:
        made = quantize(preprocess_for_quantize(copy.deepcopy(model).eval()))
        made(images[:2])
    except (TypeError, RuntimeError, KeyError, AttributeError):
        made = layerwise_quantize(model)
    return made.train()


def ours(method: str, weights: int) -> Callable[[nn.Module, Tensor], nn.Module]:
    def make(model: nn.Module, images: Tensor) -> nn.Module:
        ps.quantize(model, weights=weights, calibration=images[:32], method=method)
        return model.train()

    return make


CONTENDERS: dict[str, tuple[str | None, Callable[[nn.Module, Tensor], nn.Module]]] = {
    "fp32 or bf16, no quantizers": (None, lambda model, _: model.train()),
    "pintsize lsq W8A8": (None, ours("lsq", 8)),
    "pintsize lsq W4A8": (None, ours("lsq", 4)),
    "pintsize ema W8A8": (None, ours("ema", 8)),
    "torchao PT2E QAT W8A8": ("torchao", torchao_qat),
    "Brevitas W8A8": ("brevitas", brevitas_qat),
}


def step_of(network: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype | None) -> Step:
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=dtype) if dtype else contextlib.nullcontext():
            logits = network(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def measure(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Median seconds of a step of each contender."""
    torch.manual_seed(0)
    model = ps.models.create(name, num_classes=10, stem="small")
    layout = layout_for(model, torch.device("cpu"))
    model = model.to(memory_format=layout)
    images = torch.randn(options.batch_size, 3, 32, 32).contiguous(memory_format=layout)
    labels = torch.randint(10, (options.batch_size,))
    dtype = torch.bfloat16 if options.precision == "bf16" else None
    steps: dict[str, Step] = {}
    for contender, (package, make) in CONTENDERS.items():
        if package is not None and importlib.util.find_spec(package) is None:
            print(f"{contender}: {package} is not installed, left out")
            continue
        try:
            step = step_of(make(copy.deepcopy(model), images), images, labels, dtype)
            step()
            steps[contender] = step
        except Exception as error:
            if package is None:
                raise
            reason = (str(error).splitlines() or [""])[0][:90]
            print(f"{contender}: fails on {name} ({type(error).__name__}: {reason})")
    times: dict[str, list[float]] = {contender: [] for contender in steps}
    for _ in range(options.repeats):
        for contender, step in steps.items():
            start = time.perf_counter()
            step()
            times[contender].append(time.perf_counter() - start)
    return {contender: statistics.median(found) for contender, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["resnet32", "mobilenetv2"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    found = {name: measure(name, options) for name in options.models}
    print(f"batch {options.batch_size}, {options.precision}, median of {options.repeats}; {machine()['cpu']}")
    for name, times in found.items():
        base = next(iter(times.values()))
        print(f"\n{name:30}{'ms':>10}{'× plain':>10}")
        for contender, seconds in times.items():
            print(f"{contender:30}{1e3 * seconds:10.0f}{seconds / base:10.2f}")
    if options.json is not None:
        ps.files.write_text(options.json, json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
