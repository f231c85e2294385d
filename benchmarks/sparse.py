"""What sparse weights, rules and rounds cost in accuracy, on Fashion-MNIST, and what they save.

    python benchmarks/sparse.py start     # ECS, SNIP, magnitude … at 5 % of the weights
    python benchmarks/sparse.py rules     # rules from a sensitivity scan against uniform ratios, 10 % of the parameters
    python benchmarks/sparse.py rounds    # ResNet18 in five rounds, against a dense network trained as long
    python benchmarks/sparse.py overfit   # AlexNet overfitted, then pruned by rules
    python benchmarks/sparse.py scan      # time of a scan with and without the prefix kept
    python benchmarks/sparse.py table     # print what is done so far

Every row is a file `<out>/<experiment>/<name>-<seed>.json`; one that is there is not computed again, and a
training that was stopped goes on from its checkpoint. Validation images steer; the test images are read once,
at the end of each row.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import nn

import pintsize as ps
from pintsize.pruning import UNREGULARIZED, Rules, Sparsify, Unregularized, one_shot
from pintsize.pruning.rules.language import from_ratios
from pintsize.pruning.rules.stages import RuleStages
from pintsize.storage.atomic import write_text

Row = dict[str, Any]


class Bench:
    """The folder of an experiment, and the options that its rows share."""

    def __init__(self, args: argparse.Namespace, experiment: str) -> None:
        self.args, self.folder = args, Path(args.out) / experiment
        self.folder.mkdir(parents=True, exist_ok=True)

    def data(self, seed: int) -> Any:
        """Fashion-MNIST with as many training images as the options say, and up to 5,000 others."""
        data = ps.data.load("fashion-mnist", val_fraction=0.1, seed=seed, image_size=self.args.image_size)
        n = self.args.limit
        return dataclasses.replace(
            data,
            train=data.train.subset(n),
            val=data.val.at_most(min(n, 1000)),
            test=data.test.at_most(min(n, 5000)),
        )

    def network(self, name: str, seed: int) -> nn.Module:
        """Untrained."""
        torch.manual_seed(seed)
        return ps.models.create(name, num_classes=10, in_channels=1, stem="small")

    def row(self, name: str, seed: int, do: Callable[[Path], Row]) -> None:
        """Compute a row unless it is there."""
        path = self.folder / f"{name}-{seed}.json"
        if path.exists():
            return
        began = time.time()
        found = do(self.folder / f"{name}-{seed}.ckpt")
        row = {"name": name, "seed": seed, "limit": self.args.limit, **found, "seconds": time.time() - began}
        write_text(path, json.dumps(row) + "\n")
        (self.folder / f"{name}-{seed}.ckpt").unlink(missing_ok=True)
        print(
            json.dumps({key: value for key, value in row.items() if not isinstance(value, list)}), flush=True
        )


START = {
    "dense": None,
    "random at start": ("random", 0),
    "magnitude at start": ("magnitude", 0),
    "SNIP at start": ("snip", 0),
    "magnitude after 1 epoch": ("magnitude", 1),
    "ECS after 1 epoch": ("ecs", 1),
}
"""Row → criterion and the epoch before which it removes."""


def start(args: argparse.Namespace) -> None:
    """One-shot pruning to 5 % of the weights early in a training; the same number of epochs for all."""
    bench = Bench(args, "start")
    for seed in range(args.seeds):
        data = bench.data(seed)
        for name, how in START.items():
            if args.only and name not in args.only:
                continue

            def do(checkpoint: Path, how: Any = how, data: Any = data, seed: int = seed) -> Row:
                model = bench.network(args.model, seed)
                callbacks = []
                if how is not None:
                    callbacks = [
                        Sparsify(
                            one_shot(args.density, epoch=how[1]),
                            how[0],
                            data=data,
                            min_density=0.005,
                            seed=seed,
                        )
                    ]  # magnitude at the start would empty the last layer
                history = ps.train(
                    model, data, epochs=args.epochs, lr=0.1, batch_size=args.batch_size, seed=seed,
                    checkpoint=checkpoint, callbacks=callbacks,
                )  # fmt: skip
                kept = 1.0 if how is None else history[-1]["density"]
                return {"model": args.model, "epochs": args.epochs, "density": kept,
                        "val_accuracy": history[-1]["val_accuracy"], "accuracy": ps.evaluate(model, data.test)}  # fmt: skip

            bench.row(name, seed, do)


def rules(args: argparse.Namespace) -> None:
    """Filters removed to the same number of parameters: as a scan says, or the same share of each layer."""
    bench = Bench(args, "rules")
    stages, each = 2, args.epochs // 2
    for seed in range(args.seeds):
        data = bench.data(seed)
        dense_file = bench.folder / f"dense-{seed}.safetensors"

        def dense(checkpoint: Path, data: Any = data, seed: int = seed, file: Path = dense_file) -> Row:
            model = bench.network(args.model, seed)
            ps.train(
                model, data, epochs=args.epochs, lr=0.1, batch_size=args.batch_size, seed=seed, checkpoint=checkpoint
            )  # fmt: skip
            ps.save(model, file)
            return {"model": args.model, "density": 1.0, "accuracy": ps.evaluate(model, data.test)}

        bench.row("dense", seed, dense)
        for name in ("sensitivity rules", "uniform ratios"):

            def do(
                _: Path, name: str = name, data: Any = data, seed: int = seed, file: Path = dense_file
            ) -> Row:
                model = ps.load(file)
                chosen, kept = _rules(name, model, data, args.keep, stages, seed)
                ps.prune_by_rules(
                    model, data, chosen, epochs=each, lr=0.05, batch_size=args.batch_size, seed=seed, distill=False,
                    measure=False,
                )  # fmt: skip
                return {"model": args.model, "density": kept, "rules": chosen.text(),
                        "accuracy": ps.evaluate(model, data.test)}  # fmt: skip

            bench.row(name, seed, do)


def _rules(
    name: str, model: nn.Module, data: Any, keep: float, stages: int, seed: int
) -> tuple[Rules, float]:
    """The rules that come nearest to the fraction of parameters to keep, and the one that they keep."""
    example = next(iter(data.val.batches(2)))[0]
    whole = ps.profile(model, example).params

    def kept(rules: Rules) -> float:
        work = copy.deepcopy(model)
        RuleStages(work, rules, example=example).run(rules.stages - 1)
        return ps.profile(work, example).params / whole

    if name == "uniform ratios":
        names = [f"{layer}.weight" for group in ps.channel_groups(model, example) for layer in group.layers]
        candidates = [
            from_ratios([(one, share / 100, "l2norm") for one in names], stages=stages)
            for share in range(40, 96)
        ]
    else:
        ratios = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
        scan = ps.sensitivity(model, data, level="group", ratios=ratios, seed=seed, progress=False)
        candidates = [scan.to_rules(drop / 2, stages=stages) for drop in range(2, 180, 2)]
    low, high = 0, len(candidates) - 1  # fewer are kept the further on
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if kept(candidates[middle]) <= keep else (middle + 1, high)
    return candidates[low], kept(candidates[low])


CONFIG_1 = [0.1, 0.1, 0.2, 0.2, 0.2, 0.2, 0.3, 0.3]


def rounds(args: argparse.Namespace) -> None:
    """ResNet18, configuration 1, five rounds; the dense one has as many epochs in one training."""
    bench = Bench(args, "rounds")
    first, each = args.epochs, args.round_epochs
    for seed in range(args.seeds):
        data = bench.data(seed)
        options = {"batch_size": 64, "weight_decay": 1e-4, "seed": seed}

        def pruned(checkpoint: Path, data: Any = data, seed: int = seed, options: Any = options) -> Row:
            model = bench.network("resnet18", seed)
            ps.train(model, data, epochs=first, lr=0.1, checkpoint=checkpoint, **options)
            result = ps.prune_rounds(
                model, data, ratios=CONFIG_1, rounds=5, combine="compound", epochs=each, lr=0.05, distill=False,
                folder=bench.folder / f"run-{seed}", threads=2, **options,
            )  # fmt: skip
            print(result.table())
            last = result.rounds[-1]
            return {"density": last.params / result.rounds[0].params, "accuracy": last.accuracy,
                    "rounds": [dataclasses.asdict(row) for row in result.rounds]}  # fmt: skip

        def dense(checkpoint: Path, data: Any = data, seed: int = seed, options: Any = options) -> Row:
            model = bench.network("resnet18", seed)
            ps.train(model, data, epochs=first + 5 * each, lr=0.1, checkpoint=checkpoint, **options)
            return {"density": 1.0, "accuracy": ps.evaluate(model, data.test)}

        bench.row("five rounds", seed, pruned)
        bench.row("dense, as many epochs", seed, dense)


ALEXNET = """
features\\.0\\.weight,0.25;0.5,l2norm
features\\..*,0.3;0.6,l2norm
classifier\\.[14]\\.weight,0.7;0.85,l2norm
"""


def overfit(args: argparse.Namespace) -> None:
    """AlexNet overfitted, then pruned in two stages with it as the teacher; the dense one has as many epochs."""
    bench = Bench(args, "overfit")
    first, each = args.epochs, args.round_epochs
    for seed in range(args.seeds):
        data = bench.data(seed)

        def pruned(checkpoint: Path, data: Any = data, seed: int = seed) -> Row:
            model = bench.network("alexnet", seed)
            history = ps.train(
                model, data, epochs=first, lr=3e-4, optimizer="adam", batch_size=50, checkpoint=checkpoint, seed=seed,
                callbacks=[Unregularized(data, until=99.9)], **UNREGULARIZED,
            )  # fmt: skip
            result = ps.prune_by_rules(
                model, data, Rules.parse(ALEXNET), epochs=each, lr=3e-4, optimizer="adam", batch_size=50,
                seed=seed,
                folder=bench.folder / f"run-{seed}",
            )  # fmt: skip
            print(result.table())
            return {"density": result.rounds[-1].params / result.rounds[0].params,
                    "accuracy": result.rounds[-1].accuracy, "train_accuracy": history[-1]["train_accuracy"],
                    "rounds": [dataclasses.asdict(row) for row in result.rounds]}  # fmt: skip

        def dense(checkpoint: Path, data: Any = data, seed: int = seed) -> Row:
            model = bench.network("alexnet", seed)
            ps.train(
                model, data, epochs=first + 2 * each, lr=3e-4, optimizer="adam", batch_size=50,
                checkpoint=checkpoint, seed=seed,
            )  # fmt: skip
            return {"density": 1.0, "accuracy": ps.evaluate(model, data.test)}

        bench.row("overfitted, then pruned", seed, pruned)
        bench.row("dense, as many epochs", seed, dense)


def scan(args: argparse.Namespace) -> None:
    """A scan of ResNet18 at 32×32 with the unpruned prefix kept, and without; the numbers must be equal."""
    model = ps.models.create("resnet18", num_classes=10, in_channels=3, stem="small").eval()
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.rand(min(100, args.limit - start), 3, 32, 32, generator=generator),
         torch.randint(10, (min(100, args.limit - start),), generator=generator))
        for start in range(0, args.limit, 100)
    ]  # fmt: skip
    seconds, found = {}, {}
    for reuse in (True, False):
        began = time.time()
        found[reuse] = ps.sensitivity(model, batches, reuse=reuse, progress=False)
        seconds[reuse] = time.time() - began
    difference = max(
        abs(a - b)
        for one, other in zip(found[True].curves, found[False].curves, strict=True)
        for a, b in zip(one.loss + one.accuracy, other.loss + other.accuracy, strict=True)
    )
    print(f"{args.limit} images: {seconds[False]:.1f} s whole, {seconds[True]:.1f} s with the prefix kept: "
          f"{seconds[False] / seconds[True]:.2f}×; largest difference {difference:.2g}")  # fmt: skip


def table(args: argparse.Namespace) -> None:
    """All rows: mean and spread over the seeds."""
    for folder in sorted(path for path in Path(args.out).iterdir() if path.is_dir()):
        rows: dict[str, list[Row]] = {}
        for path in sorted(folder.glob("*.json")):
            row = json.loads(path.read_text())
            rows.setdefault(row["name"], []).append(row)
        print(
            f"\n## {folder.name}\n\n| | seeds | parameters kept | test accuracy (%) | spread |\n|---|---:|---:|---:|---:|"
        )
        for name, found in sorted(rows.items(), key=lambda item: -mean(r["accuracy"] for r in item[1])):
            accuracies = [row["accuracy"] for row in found]
            kept = mean(row["density"] for row in found)
            spread = f"{stdev(accuracies):.2f}" if len(found) > 1 else ""
            print(f"| {name} | {len(found)} | {kept:.2%} | {mean(accuracies):.2f} | {spread} |")


EXPERIMENTS: dict[str, tuple[Callable[[argparse.Namespace], None], dict[str, Any]]] = {
    "start": (start, {"model": "resnet20", "epochs": 10, "limit": 3000, "seeds": 3}),
    "rules": (rules, {"model": "resnet20", "epochs": 8, "limit": 3000, "seeds": 3}),
    "rounds": (rounds, {"model": "resnet18", "epochs": 6, "limit": 1500, "seeds": 1}),
    "overfit": (overfit, {"model": "alexnet", "epochs": 10, "limit": 1500, "seeds": 1}),
    "scan": (scan, {"model": "resnet18", "epochs": 0, "limit": 100, "seeds": 1}),
    "table": (table, {"model": "", "epochs": 0, "limit": 0, "seeds": 0}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, (run, defaults) in EXPERIMENTS.items():
        command = commands.add_parser(name, help=run.__doc__)
        command.add_argument("--out", default="runs/sparse")
        command.add_argument("--model", help="of the experiments start and rules")
        command.add_argument("--epochs", type=int, help="of the first training")
        command.add_argument("--round-epochs", type=int, default=3, help="after each cut")
        command.add_argument("--batch-size", type=int, default=50, help="in start and rules")
        command.add_argument("--limit", type=int, help="training images")
        command.add_argument("--image-size", type=int, help="side of the images; 28 by default")
        command.add_argument("--only", action="append", help="rows of start; repeatable, by default all")
        command.add_argument("--seeds", type=int)
        command.add_argument("--density", type=float, default=0.05, help="of the weights, in start")
        command.add_argument("--keep", type=float, default=0.1, help="of the parameters, in rules")
        command.set_defaults(run=run, **defaults)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
