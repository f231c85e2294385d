"""One point of the accuracy–size frontier of ResNet32 on the CIFAR-10 JPEG images, from network to file.

    python benchmarks/attention_frontier.py point --setting w4a8-pruned --data /path/cifar10-jpeg \
        --weights /path/resnet32-cifar10-jpeg.safetensors --out runs/frontier
    python benchmarks/attention_frontier.py table --out runs/frontier

`point` prunes by attention (where the setting says so), lets the network recover, trains it quantized, writes
`<out>/<setting>/net.pint` (or `.safetensors`), reads that file back with `ps.load`, and evaluates it on the test
images, once. It is resumable: a stage whose file is there is not repeated, one that was killed goes on from its
checkpoint. Validation images steer everything. `table` prints all points and draws them beside the report's.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pintsize as ps
from pintsize.pruning import prune_by_attention
from pintsize.quant import QuantizationAware, fold_batchnorm
from pintsize.storage.atomic import write_text
from pintsize.training import History

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BASELINE = 89.6
SEED = {
    "report W8A8": [(0.47, 93.3), (0.28, 89.3)],
    "report W4A8": [(0.25, 93.3), (0.16, 89.2)],
    "report W4A4": [(0.25, 91.3), (0.18, 88.0)],
    "report W2A8": [(0.14, 90.5), (0.11, 86.8)],
    "report W2A4": [(0.14, 89.1), (0.11, 85.1)],
}
"""Figure 5 of the report: megabytes, accuracy; its full-precision network has 93.3 %."""


@dataclass(frozen=True)
class Setting:
    """What is done to reach a point."""

    keep: float | None = None
    """Fraction of the parameters that attention pruning leaves; None: no pruning."""
    weights: int | None = None
    activations: int | None = None
    together: bool = False
    """Quantizers are there while attention is trained (the report's Alg. 3), or come afterwards."""
    method: str = "lsq"
    at: str = "norm"
    per: str = "group"
    price: str = "params"
    attention_weight: float = 0.05
    attention_lr: float = 5e-3
    lr: float = 3e-4
    attention_epochs: int = 10
    recovery_epochs: int = 1
    normalize: str = "max"
    report: bool = False
    """The report's own placement, rates and loop."""
    recover_epochs: int = 12
    recover_lr: float = 0.05
    weight_decay: float = 5e-4
    """Of the recovery."""
    bits: dict[str, int] = field(default_factory=dict)
    """Patterns of layers whose weights have other bits than `weights`."""
    qat_epochs: int = 12
    qat_lr: float = 0.01
    qat_weight_decay: float = 1e-4
    damping: float = 1e-5
    distill_weight: float = 0.6
    temperature: float = 3.0
    cutout: int = 0


_BITS = ((8, 8), (4, 8), (4, 4), (3, 8), (2, 8), (2, 4))
_KEPT = (0.75, 0.56, 0.44)
_REPORT = Setting(keep=0.56, report=True, recover_epochs=0, qat_epochs=0)
SETTINGS = {
    "dense-longer": Setting(recover_epochs=24),
    **{f"w{w}a{a}": Setting(weights=w, activations=a, recover_epochs=0, qat_epochs=24) for w, a in _BITS},
    **{
        f"w{w}a{a}-pruned{round(100 * keep)}": Setting(weights=w, activations=a, keep=keep)
        for w, a in _BITS
        for keep in _KEPT
    },
    # the layers with the fewest weights are those that two bits hurt most
    "w2a8-pruned44-mixed": Setting(weights=2, activations=8, keep=0.44, bits={"layer1.*": 3, "linear": 8}),
    **{f"fp32-pruned{round(100 * keep)}": Setting(keep=keep, recover_epochs=24) for keep in _KEPT},
    # Figures 1 and 2 of the report, with our recipe: what attention alone does, in as many epochs
    **{f"attention-{name}": Setting(keep=0.0, normalize=name, recover_epochs=0) for name in ("none", "max")},
    "report-fp32": _REPORT,
    "report-unnormalised": replace(_REPORT, keep=0.0, normalize="none"),
    **{f"report-w{w}a{a}": replace(_REPORT, weights=w, activations=a, together=True) for w, a in _BITS},
}
"""By name; `--set field=value` changes one field."""


def data_of(folder: str, limit: int | None, cutout: int) -> Any:
    return ps.data.load(
        f"imagefolder:{folder}", val_fraction=0.04, seed=0, limit=limit, mean=MEAN, std=STD, cutout=cutout
    )


def point(args: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    setting = _changed(SETTINGS[args.setting], args.set)
    folder = Path(args.out) / args.setting
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_options(folder, {**vars(setting), "seed": args.seed, "limit": args.limit, "teacher": args.teacher})
    began = time.time()
    data = data_of(args.data, args.limit, setting.cutout)
    dense = ps.load(args.weights, model=ps.models.create("resnet32", stem="small")).to(device)
    val = ps.evaluate(dense, data.val)
    teacher = dense if args.teacher is None else ps.load(args.teacher).to(device)
    run = Run(folder, data, teacher, setting, args.seed)
    model = run.stage("attention", dense, run.attention) if setting.keep is not None else dense
    if setting.recover_epochs and not setting.together:
        model = run.stage("recovered", model, run.recover)
    if setting.weights is not None and not setting.together:
        model = run.stage("quantized", model, run.quantize)
    path = folder / f"net.{args.format}"
    model = copy.deepcopy(model).cpu()
    if args.format == "pint":
        ps.export(model, path, example=next(iter(data.val.batches(2)))[0])
    else:
        ps.save(model, path)
    accuracy = ps.evaluate(ps.load(path), data.test)  # the only look at the test images
    profile = ps.profile(model, next(iter(data.val.batches(1)))[0])
    return {
        "setting": args.setting, "bytes": path.stat().st_size, "accuracy": accuracy, "drop": BASELINE - accuracy,
        "val_accuracy": ps.evaluate(model, data.val), "dense_val_accuracy": val, "params": profile.params,
        "macs": profile.macs, "weights": setting.weights, "activations": setting.activations,
        "seconds": time.time() - began, "file": str(path), "seed": args.seed, "options": vars(setting),
    }  # fmt: skip


def keep_options(folder: Path, options: dict[str, Any]) -> None:
    """Note with what a folder's stages are made; end where they were made with something else."""
    path = folder / "options.json"
    if path.exists():
        before = json.loads(path.read_text())
        changed = sorted(key for key in options if before.get(key) != options[key])
        if changed:
            raise SystemExit(
                f"{folder}: its stages were made with other {', '.join(changed)}; choose another --out"
            )
    write_text(path, json.dumps(options))


class Run:
    """The stages of one point, each from a file to a file."""

    def __init__(self, folder: Path, data: Any, teacher: nn.Module, setting: Setting, seed: int) -> None:
        self.folder, self.data, self.teacher, self.setting, self.seed = folder, data, teacher, setting, seed

    def stage(self, name: str, model: nn.Module, do: Any) -> nn.Module:
        """What `do` makes of a copy of `model`, kept in a file."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            work = copy.deepcopy(model)
            do(work)
            ps.save(work, path)
        return ps.load(path).to(next(model.parameters()).device)

    def attention(self, model: nn.Module) -> None:
        """Prune."""
        s = self.setting
        options: dict[str, Any] = {"normalize": s.normalize, "seed": self.seed, "per": s.per}
        if s.keep:
            options["target"] = s.keep
        if s.together:
            options |= {"weights": s.weights, "activations": s.activations}
        if not s.report:
            options |= {
                "at": "convolution" if s.together else s.at, "price": s.price, "lr": s.lr, "start": (1.0, 1.0),
                "attention_lr": s.attention_lr, "attention_weight": s.attention_weight, "weight_penalty": 0.0,
                "attention_epochs": s.attention_epochs, "recovery_epochs": s.recovery_epochs, "distill": True,
            }  # fmt: skip
        result = prune_by_attention(
            model,
            self.data,
            checkpoint=self.folder / "attention.ckpt",
            csv=self.folder / "attention.csv",
            **options,
        )
        print(result)
        result.history.save(self.folder / "attention.json")
        from pintsize.viz import to_png

        for name, figure in result.figures(model).items():
            to_png(figure, self.folder / f"attention-{name}.png")

    def recover(self, model: nn.Module) -> None:
        """Train the smaller network with the teacher."""
        s = self.setting
        self.fit(model, "recovered", epochs=s.recover_epochs, lr=s.recover_lr, weight_decay=s.weight_decay)

    def quantize(self, model: nn.Module) -> None:
        """Train with quantizers, then fold what norms are left."""
        s = self.setting
        example = next(iter(self.data.val.batches(2)))[0].to(next(model.parameters()).device)
        images = self.data.train.at_most(512, self.seed)
        ps.quantize(
            model, weights={"conv1": 8, **s.bits, "*": s.weights}, activations={"conv1": 8, "*": s.activations},
            calibration=images, method=s.method, example=example, progress=False,
        )  # fmt: skip
        if s.qat_epochs:
            late = QuantizationAware(damping=s.damping)
            self.fit(
                model, "quantized", epochs=s.qat_epochs, lr=s.qat_lr, weight_decay=s.qat_weight_decay,
                callbacks=(late,),
            )  # fmt: skip
        fold_batchnorm(model, example)

    def fit(self, model: nn.Module, name: str, **options: Any) -> History:
        """`ps.train` with the teacher; resumable."""
        history = ps.train(
            model, self.data, teacher=self.teacher, seed=self.seed, checkpoint=self.folder / f"{name}.ckpt",
            nesterov=True, distill_weight=self.setting.distill_weight, temperature=self.setting.temperature,
            **options,
        )  # fmt: skip
        history.save(self.folder / f"{name}.json")
        return history


def _changed(setting: Setting, changes: list[str]) -> Setting:
    values = {key: json.loads(value) for key, value in (change.split("=", 1) for change in changes)}
    return replace(setting, **values)


def table(args: argparse.Namespace) -> None:
    """All points, smallest first, and the figure."""
    from pintsize.viz import bits_frontier, to_png

    rows = sorted(
        (json.loads(path.read_text()) for path in Path(args.out).glob("*/row.json")), key=lambda r: r["bytes"]
    )
    print(f"| {'setting':<20} |   bytes | parameters | test accuracy (%) | drop |\n|---|---:|---:|---:|---:|")
    for r in rows:
        print(
            f"| {r['setting']:<20} | {r['bytes']:7,} | {r['params']:10,} | {r['accuracy']:17.2f} | {r['drop']:+.2f} |"
        )
    series: dict[str, list[dict[str, Any]]] = {}
    for r in rows:
        name = "fp32" if r["weights"] is None else f"W{r['weights']}A{r['activations']}"
        series.setdefault(name, []).append({"bytes": r["bytes"], "accuracy": r["accuracy"] - BASELINE})
    seed = {
        name: [{"bytes": mb * 1e6, "accuracy": accuracy - 93.3} for mb, accuracy in points]
        for name, points in SEED.items()
    }
    figure = bits_frontier(series, reference=seed, title="Points above or below the dense network")
    to_png(figure, Path(args.out) / "frontier.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("point", help="make one point")
    one.add_argument("--setting", required=True, choices=sorted(SETTINGS))
    one.add_argument("--data", required=True, help="folder with train/ and test/")
    one.add_argument("--weights", required=True, help="the dense ResNet32")
    one.add_argument(
        "--teacher", help="network that recovery and quantized training imitate; default: the dense one"
    )
    one.add_argument("--format", default="pint", choices=("pint", "safetensors"))
    one.add_argument("--set", action="append", default=[], help="field=json value of the setting")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--limit", type=int, help="use so many images of each split, to try the script")
    one.set_defaults(run=point)
    every = commands.add_parser("table", help="print and draw all points")
    every.set_defaults(run=table)
    for command in (one, every):
        command.add_argument("--out", default="runs/frontier")
    args = parser.parse_args()
    row = args.run(args)
    if row is not None:
        text = json.dumps(row)
        write_text(Path(args.out) / args.setting / "row.json", text + "\n")
        print(text)


if __name__ == "__main__":
    main()
