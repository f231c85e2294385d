"""The budget search against one ratio for all layers and against Torch-Pruning, at equal training and equal latency.

    python benchmarks/budget.py --peer-path FOLDER --out runs/budget-benchmark --seeds 0 1 2

For each seed one dense network is trained; then, each with the same recovery (epochs, teacher, images in the same order):

- *search*: `ps.compress(max_latency=…)`: the share `--share` of what the dense network takes in int8;
- *uniform*: the same ratio of every layer's channels (L2, rounded to 8), then `ps.quantize`;
- *Torch-Pruning*: global L2 (`MagnitudePruner`, rounded to 8), then ONNX Runtime's `quantize_static`, both calibrated on
  the same 512 images. It cannot cut the networks with zero-padded shortcuts (resnet20, …): take another.

The ratio of the latter two is the smallest whose int8 file is as fast as the search's (within 2 %), found before any
training. Started again, nothing that is done is repeated. Run it on an idle machine.
"""

import argparse
import copy
import importlib
import json
import sys
from pathlib import Path

import torch
from torch import nn

import pintsize as ps
from deploy import peer_int8
from pintsize.files import write_text
from pintsize.measure import side_by_side
from pintsize.recipe import RecoverSection

CONTENDERS = ("search", "uniform", "Torch-Pruning")
CALIBRATION = 512
REPEATS = 150
STEPS = 7
"""Halvings of the range of ratios."""


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet-demo")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=0.6, help="of the latency of the dense int8 file")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--recover-epochs", type=int, default=5)
    parser.add_argument("--limit", type=int, help="images of each split")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/budget-benchmark"))
    parser.add_argument("--peer-path", help="folder that holds the package torch_pruning")
    return parser.parse_args()


class Seed:
    """Everything of one seed."""

    def __init__(self, given, seed):
        self.given, self.seed = given, seed
        self.folder = given.out / f"seed-{seed}"
        self.data = ps.data.load(given.data, limit=given.limit, seed=seed)
        self.example = next(iter(self.data.val.batches(batch_size=2)))[0]
        self.calibration = self.data.train.at_most(CALIBRATION, seed)

    def search(self):
        """Its file; the dense network of the seed is trained on the way."""
        file = self.folder / "search" / "budget" / "full-1.onnx"
        limit = self.folder / "limit.json"
        if not limit.exists():  # how long a network takes is no matter of its weights
            net = ps.models.create(self.given.model, in_channels=self.data.image_shape[0],
                                   num_classes=len(self.data.classes), stem="small").eval()  # fmt: skip
            path = self.int8(net, self.folder / "untrained.onnx")
            write_text(limit, json.dumps(self.given.share * self.times({"net": path})["net"]))
        ps.compress(
            self.given.model, self.given.data, out=self.folder / "search", seed=self.seed, limit=self.given.limit,
            epochs=self.given.epochs, lr=self.given.lr, recover_epochs=self.given.recover_epochs,
            max_latency=json.loads(limit.read_text()), time_limit=None, confirmations=1, threads=self.given.threads,
            stem="small",
        )  # fmt: skip
        if not file.exists():
            sys.exit("the dense network keeps the limit: choose a smaller --share")
        return file

    def rival(self, name, dense, goal):
        """The file of a rival, as fast as `goal`, the share of the dense fp32 file's time that ours takes."""
        file, fit = self.folder / f"{name}.onnx", self.folder / f"{name}.json"
        cut, quantized = (self.uniform, self.int8) if name == "uniform" else (self.torch_pruning, self.peer)
        if not fit.exists():
            low, high = 0.0, 0.95
            for _ in range(STEPS):
                ratio = (low + high) / 2
                found = quantized(cut(dense, ratio), self.folder / "fit.onnx")
                times = self.times({"dense": self.dense_file(), "net": found})
                low, high = (low, ratio) if times["net"] <= 1.02 * goal * times["dense"] else (ratio, high)
            write_text(fit, json.dumps(high))
        if not file.exists():
            net = cut(dense, json.loads(fit.read_text()))
            section = RecoverSection(epochs=self.given.recover_epochs)
            options = section.model_dump(exclude={"distill", "regularize"})
            ps.train(net, self.data, **options, seed=self.seed, teacher=copy.deepcopy(dense),
                     checkpoint=self.folder / f"{name}.checkpoint")  # fmt: skip
            quantized(net.eval(), self.folder / "made.onnx").replace(file)
        return file

    def uniform(self, dense, ratio):
        net = copy.deepcopy(dense)
        if ratio:
            ps.prune(net, self.example, ratio=ratio, scope="local", importance="l2", round_to=8)
        return net

    def torch_pruning(self, dense, ratio):
        tp = importlib.import_module("torch_pruning")
        net = copy.deepcopy(dense)
        last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1:]
        tp.pruner.MagnitudePruner(
            net, self.example, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=ratio,
            global_pruning=True, round_to=8, ignored_layers=last,
        ).step()  # fmt: skip
        return net

    def int8(self, net, path):
        net = copy.deepcopy(net)
        ps.quantize(net, calibration=self.calibration, progress=False)
        ps.export(net, path, example=self.example)
        return path

    def peer(self, net, path):
        source = path.with_suffix(".float.onnx")
        ps.export(net, source, example=self.example)
        images = torch.cat([images for images, _ in self.calibration.batches()])
        peer_int8(source, path, images)
        return path

    def dense_file(self):
        return self.folder / "search" / "budget" / "dense.onnx"

    def times(self, files):
        """Median milliseconds, in turns."""
        runtimes = {name: ps.open_runtime(path, threads=self.given.threads) for name, path in files.items()}
        found = side_by_side(runtimes, self.example[:1].numpy(), repeats=REPEATS, threads=self.given.threads)
        for runtime in runtimes.values():
            runtime.close()
        return {name: each.median_ms for name, each in found.items()}

    def rows(self):
        """Name → milliseconds and test accuracy."""
        done = self.folder / "rows.json"
        if not done.exists():
            files = {"search": self.search()}
            times = self.times({"dense": self.dense_file(), **files})
            dense = ps.load(self.folder / "search" / "dense.safetensors")
            for name in CONTENDERS[1:]:
                files[name] = self.rival(name, dense, times["search"] / times["dense"])
            times, found = self.times({"dense": self.dense_file(), **files}), {}
            for name, file in {"dense": self.dense_file(), **files}.items():
                runtime = ps.open_runtime(file, threads=self.given.threads)
                found[name] = {"ms": times[name], "accuracy": ps.evaluate(runtime, self.data.test)}
                runtime.close()
            write_text(done, json.dumps(found))
        return json.loads(done.read_text())


def main():
    given = arguments()
    if given.peer_path:
        sys.path.append(given.peer_path)
    found = []
    print("| seed | network | latency, ms | × dense fp32 | test accuracy, % |\n|---|---|---|---|---|")
    for seed in given.seeds:
        rows = Seed(given, seed).rows()
        found.append(rows)
        for name, row in rows.items():
            faster = rows["dense"]["ms"] / row["ms"]
            print(f"| {seed} | {name} | {row['ms']:.4f} | {faster:.2f} | {row['accuracy']:.2f} |", flush=True)
    for name in CONTENDERS[1:]:
        gains = [rows["search"]["accuracy"] - rows[name]["accuracy"] for rows in found]
        told = ", ".join(f"{gain:+.2f}" for gain in gains)
        print(f"search over {name}: {sum(gains) / len(gains):+.2f} points ({told})")


if __name__ == "__main__":
    main()
