"""Accuracy in fixed point: the four layouts of levels over 4, 6, 8 and 16 bits of parameters, activations and norms.

python benchmarks/fixed_point.py --data /path/to/cifar10-jpeg --weights resnet32.safetensors --figure modes.png
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch

import pintsize as ps
from pintsize.measure import machine
from pintsize.storage.atomic import atomic

MODES, BITS = ("linear", "minmax", "log", "tanh"), (4, 6, 8, 16)


def draw(found: dict[str, dict[int, float]], dense: float, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(dense, color="0.6", linewidth=1, label="fp32")
    for (mode, accuracies), marker in zip(found.items(), "osD^", strict=True):
        axes.plot(range(len(BITS)), [accuracies[bits] for bits in BITS], marker=marker, label=mode)
    axes.set_xticks(range(len(BITS)), [str(bits) for bits in BITS])
    axes.set_xlabel("bits of parameters, activations and norms")
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder with train/<class>/ and test/<class>/")
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--model", default="resnet32")
    parser.add_argument("--test-images", type=int, default=500)
    parser.add_argument("--calibration-images", type=int, default=128)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = ps.data.load(
        f"imagefolder:{options.data}", val_fraction=0.02, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )  # fmt: skip
    model = ps.models.create(options.model, num_classes=len(data.classes), weights=options.weights).eval()
    test = data.test.subset(options.test_images, options.seed)
    calibration = data.train.subset(options.calibration_images, options.seed)
    dense = ps.evaluate(model, test)
    print(f"{options.model}, {len(test)} test images, fp32 {dense:.1f} %; {machine()['cpu']}")
    print(f"{'bits':>8}" + "".join(f"{bits:>8}" for bits in BITS), flush=True)
    found: dict[str, dict[int, float]] = {}
    for mode in MODES:
        found[mode] = {}
        for bits in BITS:
            work = copy.deepcopy(model)
            ps.fixed_point(
                work, weights=bits, activations=bits, norm=bits, mode=mode, calibration=calibration
            )
            found[mode][bits] = ps.evaluate(work, test)
        print(f"{mode:>8}" + "".join(f"{found[mode][bits]:8.1f}" for bits in BITS), flush=True)
    if options.figure is not None:
        draw(found, dense, options.figure)


if __name__ == "__main__":
    main()
