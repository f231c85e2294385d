"""Accuracy after quantization-aware training of a trained network at few bits, distilled from itself.

    python benchmarks/qat_accuracy.py --data /path/to/cifar10-jpeg --weights resnet32.safetensors --out runs/qat \
        --settings W4A8 W4A4 W2A8 --epochs 8

Each setting has a checkpoint in the folder `--out` and goes on from it when the command is given again;
`--epochs-per-run` ends the process after so many. The test split is read once per setting, at its end, through
the `.pint` file that is written.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pintsize as ps
from pintsize.measure import machine
from pintsize.quant import QuantizationAware, fold_batchnorm, reestimate_norms
from pintsize.storage.atomic import write_text
from pintsize.training import Callback, TrainState


class Pause(Callback):
    """Ends the process between two epochs, when the checkpoint of the first is written."""

    def __init__(self, epochs: int | None) -> None:
        self.left = epochs

    def on_epoch_start(self, state: TrainState) -> None:
        if self.left == 0:
            sys.exit(f"paused before epoch {state.epoch + 1}; give the command again to go on")
        self.left = None if self.left is None else self.left - 1


def bits_of(setting: str) -> tuple[int, int]:
    """Bits of weights and activations that 'W4A8' names."""
    found = re.fullmatch(r"W(\d)A(\d)", setting)
    if found is None:
        sys.exit(f"setting {setting!r}: write it as W4A8")
    return int(found[1]), int(found[2])


def run(setting: str, dense: nn.Module, data: ps.data.Data, options: argparse.Namespace) -> dict[str, Any]:
    """Train one setting to its end; its row of the table."""
    weights, activations = bits_of(setting)
    model = copy.deepcopy(dense)
    calibration = data.train.subset(512, options.seed)
    ps.quantize(model, weights=weights, activations=activations, calibration=calibration, method="lsq")
    before = ps.evaluate(model, data.val)
    history = ps.train(
        model,
        data,
        epochs=options.epochs,
        lr=options.lr,
        weight_decay=options.weight_decay,
        teacher=dense,
        distill_weight=options.distill_weight,
        temperature=options.temperature,
        seed=options.seed,
        checkpoint=options.out / f"{setting}.ckpt",
        callbacks=[
            Pause(options.epochs_per_run),
            QuantizationAware(freeze_at=options.freeze_at, damping=options.damping),
        ],
    )
    measured = copy.deepcopy(model)
    some = data.train.at_most(4096, options.seed)
    reestimate_norms(measured, some.batches(shuffle=True, augment=True, seed=options.seed), images=None)
    anew = ps.evaluate(measured, data.val)
    if anew > history[-1]["val_accuracy"]:
        model = measured
    images, _ = next(iter(data.val.batches(2)))
    fold_batchnorm(model, images)
    path = options.out / f"{setting}.pint"
    ps.export(model, path, example=images)
    return {
        "setting": setting,
        "val_before_training": before,
        "val_norms_kept": history[-1]["val_accuracy"],
        "val_norms_anew": anew,
        "val": ps.evaluate(model, data.val),
        "test": ps.evaluate(ps.load(path), data.test),
        "bytes": path.stat().st_size,
        "seconds_per_epoch": sorted(entry["seconds"] for entry in history)[len(history) // 2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder with train/<class>/ and test/<class>/")
    parser.add_argument("--weights", required=True, type=Path, help="of the trained network")
    parser.add_argument("--model", default="resnet32")
    parser.add_argument("--out", required=True, type=Path, help="folder for checkpoints and results")
    parser.add_argument("--settings", nargs="+", default=["W4A8", "W4A4", "W2A8"])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--epochs-per-run", type=int)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--distill-weight", type=float, default=0.6)
    parser.add_argument("--temperature", type=float, default=3.0)
    parser.add_argument("--freeze-at", type=float, default=0.85)
    parser.add_argument("--damping", type=float, default=1e-5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)

    data = ps.data.load(
        f"imagefolder:{options.data}", val_fraction=0.02, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )  # fmt: skip
    dense = ps.models.create(options.model, num_classes=len(data.classes), weights=options.weights).eval()
    results = options.out / "results.json"
    done: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    if "fp32" not in done:
        accuracy = {"val": ps.evaluate(dense, data.val), "test": ps.evaluate(dense, data.test)}
        done["fp32"] = {"setting": "fp32", **accuracy}
        write_text(results, json.dumps(done, indent=1))
    for setting in options.settings:
        if setting not in done:
            done[setting] = run(setting, dense, data, options)
            write_text(results, json.dumps(done, indent=1))
    print(f"{options.model}, {options.epochs} epochs, seed {options.seed}; {machine()['cpu']}")
    print(f"{'':6}{'before':>8}{'val':>8}{'test':>8}{'drop':>8}{'bytes':>9}{'s/epoch':>9}")
    for row in done.values():
        drop = done["fp32"]["test"] - row["test"]
        before, size, seconds = (
            row.get(key) for key in ("val_before_training", "bytes", "seconds_per_epoch")
        )
        print(
            f"{row['setting']:6}{'' if before is None else f'{before:.2f}':>8}{row['val']:8.2f}{row['test']:8.2f}"
            f"{drop:8.2f}{size or '':>9}{'' if seconds is None else f'{seconds:.0f}':>9}"
        )


if __name__ == "__main__":
    main()
