"""Peak memory of a pruning, beside that of the model and of one forward pass, each in a process of its own.

    python benchmarks/pruning_memory.py

*model* is the bytes of parameters and buffers; *forward* is what the first forward pass adds without gradients,
*training* what it adds with them, and *prune* what `ps.prune` adds instead. The bound is the model once more (twice
in all) plus one forward pass of training. Peaks are those of the resident set, reset before each step (Linux).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

NAMES = (
    "resnet18",
    "resnet50",
    "mobilenetv2",
    "shufflenetv2-x1.0",
    "vgg16-bn",
    "alexnet",
    "DenseNet169-like",
)

STEPS = ("forward", "training", "prune")


def peak(step: str, name: str) -> tuple[float, float]:
    """MB of the model, and MB that `step` adds to the resident set at its peak."""
    done = subprocess.run([sys.executable, __file__, "--step", step, "--model", name], capture_output=True,
                          text=True, check=True)  # fmt: skip
    model, added = done.stdout.split()
    return float(model), float(added)


def status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1000


def measure(step: str, name: str) -> None:
    import torch

    import pintsize as ps
    from structures.densenet import densenet169

    def make() -> torch.nn.Module:
        return densenet169() if name.startswith("DenseNet") else ps.models.create(name, num_classes=1000)

    ps.prune(
        ps.models.create("resnet-demo"), torch.randn(1, 3, 32, 32), ratio=0.5
    )  # libraries and thread pools
    model, example = make().eval(), torch.randn(1, 3, 224, 224)
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values()) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    if step != "prune":
        with torch.set_grad_enabled(step == "training"):
            model(example)
    else:
        ps.prune(model, example, ratio=0.5)
    print(size, status("VmHWM") - before)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        measure(options.step, options.model)
        return
    print(f"{'MB':<20} {'model':>7} {'forward':>8} {'training':>8} {'prune':>7} {'bound':>7}")
    for name in NAMES:
        (model, forward), (_, training), (_, prune) = (peak(step, name) for step in STEPS)
        bound = model + training
        verdict = "ok" if prune <= bound else "OVER"
        print(
            f"{name:<20} {model:>7.1f} {forward:>8.1f} {training:>8.1f} {prune:>7.1f} {bound:>7.1f}  {verdict}",
            flush=True,
        )


if __name__ == "__main__":
    main()
