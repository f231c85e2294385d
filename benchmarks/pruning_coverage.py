"""Which networks channel pruning understands, how exact it is and how long it takes; beside Torch-Pruning if asked.

    python benchmarks/pruning_coverage.py                       # named networks and hand-written structures
    python benchmarks/pruning_coverage.py --torchvision         # and torchvision's classification zoo
    pip install --no-deps --target /tmp/tp torch-pruning==1.6.1
    python benchmarks/pruning_coverage.py --peer --peer-path /tmp/tp --repeats 3

Half of the channels of every group go. *error* is the largest difference from the dense network with zeroed
channels, over its largest output (`benchmarks/structures/reference.py`). *seconds* is tracing, grouping and
pruning; *check* is what comes on top in our case: the run of the zeroed original and that of the smaller network,
which the peer does not have. A peer's result counts as right if its network runs
forward and backward and computes what the masked original does; where its indices do not tell plainly what it
cut (one dimension several times, behind a concatenation) the latter is not checked: error nan.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib
import math
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

import pintsize as ps
from pintsize.graph import trial
from structures import CASES, reference
from structures.densenet import densenet169


@dataclass
class Network:
    """One row."""

    kind: str
    name: str
    make: Callable[[], nn.Module]
    example: Any


@dataclass
class Outcome:
    """What one tool did with one network."""

    groups: int = 0
    params: float = 0.0
    error: float = math.inf
    seconds: float = math.inf
    check: float = 0.0
    """Seconds of the comparison with the zeroed original."""
    problem: str = ""

    @property
    def right(self) -> bool:
        return not self.problem and not self.error >= 1e-4

    def __str__(self) -> str:
        if self.problem:
            return f"{'':>6} {'':>6} {'':>8} {'':>8} {'':>6}  {self.problem[:90]}"
        verdict = "ok" if self.right else "WRONG"
        return f"{self.groups:>6} {self.params:>6.1%} {self.error:>8.1e} {self.seconds:>8.3f} {self.check:>6.3f}  {verdict}"


def named() -> Iterator[Network]:
    for name in ps.models.list():
        big = name.startswith(("alexnet", "vgg"))
        small = name.startswith("resnet") and name[6:] in {"20", "32", "44", "56", "-demo"}
        size = 32 if small else 224
        stem = "auto" if small or big else "imagenet"
        yield Network(
            "pintsize",
            name,
            lambda name=name, stem=stem: ps.models.create(name, stem=stem),
            torch.randn(1, 3, size, size),
        )

    yield Network("pintsize", "DenseNet169-like", densenet169, torch.randn(1, 3, 224, 224))


def structures() -> Iterator[Network]:
    for name, case in CASES.items():
        yield Network("structure", name, case.make, case.example())


def torchvision_zoo() -> Iterator[Network]:
    models = importlib.import_module("torchvision.models")
    for name in models.list_models(models):
        options = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
        size = 299 if name == "inception_v3" else 518 if name == "vit_h_14" else 224
        yield Network(
            "torchvision",
            name,
            lambda name=name, options=options: models.get_model(name, **options),
            torch.randn(1, 3, size, size),
        )


def measure(network: Network) -> Outcome:
    torch.manual_seed(0)
    dense = reference.randomise(network.make()).eval()
    model = copy.deepcopy(dense)
    start = time.perf_counter()
    try:
        with Stopwatch() as watch:
            plan = ps.prune(
                model, network.example, ratio=0.5, scope="local", importance="l2", fold_constants=False
            )
    except ps.errors.PintsizeError as error:
        return Outcome(problem=f"refused: {error.what}: {error.cause}")
    seconds = time.perf_counter() - start - watch.seconds
    error = reference.error(
        reference.masked(dense, network.example, plan.removed), reference.outputs(model, network.example)
    )
    groups = len(ps.channel_groups(dense, network.example))
    faults = reference.inconsistent(model)
    params = plan.after["params"] / plan.before["params"]
    return Outcome(groups, params, error, seconds, watch.seconds, "; ".join(faults))


class Stopwatch:
    """Times the two runs that the last check of a pruning consists of; earlier trials are part of the grouping."""

    def __enter__(self) -> Stopwatch:
        self._timed = {name: getattr(trial, name) for name in ("reference", "run")}
        self._last: dict[str, float] = {}
        trial.reference = lambda *args: self._measure("reference", *args)
        trial.run = lambda *args: self._measure("run", *args)
        return self

    def _measure(self, name: str, *args: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._timed[name](*args)
        finally:
            self._last[name] = time.perf_counter() - start

    def __exit__(self, *_: object) -> None:
        for name, function in self._timed.items():
            setattr(trial, name, function)

    @property
    def seconds(self) -> float:
        return sum(self._last.values())


def measure_peer(network: Network, tp: Any, limit: int) -> Outcome:
    """Torch-Pruning with the same request: half of every group by L2 norm, the last layer kept."""
    torch.manual_seed(0)
    dense = reference.randomise(network.make()).eval()
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(limit)
    try:
        model = copy.deepcopy(dense)
        start = time.perf_counter()
        peer_pruner(tp, model, network.example).step()
        seconds = time.perf_counter() - start
        model = copy.deepcopy(dense)
        groups, removed = 0, Removal(model)
        for group in peer_pruner(tp, model, network.example).step(interactive=True):
            groups += 1
            for dependency, indices in group:
                removed.note(dependency, list(indices))
            group.prune()
        if not groups:
            return Outcome(problem="nothing was pruned")
        outputs = reference.outputs(model, network.example)
        if not all(tensor.isfinite().all() for tensor in outputs):
            return Outcome(problem="its outputs are not finite")
        if not trains(model, network.example):
            return Outcome(problem="some parameters get no gradient")
    except Exception as error:  # whatever the peer raises is its result
        return Outcome(problem=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    finally:
        signal.alarm(0)
    params = sum(p.numel() for p in model.parameters()) / sum(p.numel() for p in dense.parameters())
    try:
        worst = math.nan
        if removed.plain:
            worst = reference.error(reference.masked(dense, network.example, removed.indices), outputs)
    except (IndexError, RuntimeError):  # its indices do not say plainly what it cut
        worst = math.nan
    return Outcome(groups, params, worst, seconds)


def give_up(*_: object) -> None:
    raise TimeoutError("it did not come to an end")


def peer_pruner(tp: Any, model: nn.Module, example: Any) -> Any:
    last = [m for m in model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)][-1:]
    importance = tp.importance.MagnitudeImportance(p=2)
    return tp.pruner.BasePruner(model, example, importance=importance, pruning_ratio=0.5, ignored_layers=last)


class Removal:
    """What the peer takes from each parameter, in terms of the dense network."""

    def __init__(self, model: nn.Module) -> None:
        self.names = {id(module): path for path, module in model.named_modules()}
        self.indices: dict[str, dict[int, list[int]]] = {}
        self.plain = True
        """Whether every dimension was cut once: later indices count in the smaller network, and are not followed."""

    def note(self, dependency: Any, indices: list[int]) -> None:
        module = dependency.target.module
        if id(module) not in self.names:  # an operation
            return
        prefix = f"{self.names[id(module)]}.".removeprefix(".")
        out = "out" in dependency.handler.__name__
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            depthwise = getattr(module, "groups", 1) == getattr(module, "out_channels", 0) > 1
            found = {f"{prefix}weight": 0 if depthwise or out != getattr(module, "transposed", False) else 1}
            if (out or depthwise) and module.bias is not None:
                found[f"{prefix}bias"] = 0
        else:
            tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            found = {f"{prefix}{key}": 0 for key, tensor in tensors if tensor.dim() == 1}
        for name, dim in found.items():
            known = self.indices.setdefault(name, {}).setdefault(dim, sorted(set(indices)))
            self.plain &= known == sorted(set(indices))


def trains(model: nn.Module, example: Any) -> bool:
    result = model.train()(*(example if isinstance(example, tuple) else (example,)))
    sum(t.square().sum() for t in tree_flatten(result)[0] if isinstance(t, Tensor)).backward()
    return all(p.grad is not None for p in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="part of a name")
    parser.add_argument("--torchvision", action="store_true", help="torchvision's classification zoo as well")
    parser.add_argument(
        "--peer", action="store_true", help="Torch-Pruning on the same networks, taking turns"
    )
    parser.add_argument("--peer-path", help="folder that holds the package torch_pruning")
    parser.add_argument(
        "--peer-seconds", type=int, default=60, help="when the peer is given up on one network"
    )
    parser.add_argument("--repeats", type=int, default=1, help="the fastest of so many runs counts")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.peer_path:
        sys.path.append(options.peer_path)
    tp = importlib.import_module("torch_pruning") if options.peer else None
    networks = [*named(), *structures()]
    if options.torchvision:
        try:
            networks += torchvision_zoo()
        except (ImportError, RuntimeError) as error:
            print(f"torchvision: skipped, it cannot be imported ({error})")
    columns = f"{'groups':>6} {'params':>6} {'error':>8} {'seconds':>8} {'check':>6}"
    print(f"{torch.__version__}, {torch.get_num_threads()} threads, fastest of {options.repeats}")
    print(
        f"{'network':<42} {columns}" + (f"  {'':4} {columns}  (Torch-Pruning {tp.__version__})" if tp else "")
    )
    results = []
    for network in networks:
        if options.only not in network.name:
            continue
        runs: list[tuple[Outcome, Outcome | None]] = []
        for _ in range(options.repeats):
            runs.append((measure(network), measure_peer(network, tp, options.peer_seconds) if tp else None))
            gc.collect()
        mine = min((run[0] for run in runs), key=lambda o: o.seconds)
        theirs = min((run[1] for run in runs if run[1]), key=lambda o: o.seconds, default=None)
        results.append((network, mine, theirs))
        print(
            f"{network.kind + ' ' + network.name:<42} {mine!s:<43}" + (f" {theirs}" if theirs else ""),
            flush=True,
        )
    summary(results)


def summary(results: list[tuple[Network, Outcome, Outcome | None]]) -> None:
    print(f"\nright: {sum(mine.right for _, mine, _ in results)} of {len(results)}")
    pairs = [(network, mine, theirs) for network, mine, theirs in results if theirs]
    if not pairs:
        return
    wrong = [network.name for network, _, theirs in pairs if not theirs.right]
    print(f"peer right: {len(pairs) - len(wrong)} of {len(pairs)}; fails or is wrong on: {', '.join(wrong)}")
    for kind in dict.fromkeys(network.kind for network, _, _ in pairs):
        both = [(mine, theirs) for network, mine, theirs in pairs
                if network.kind == kind and mine.right and math.isfinite(theirs.seconds)]  # fmt: skip
        if both:
            bare = statistics.geometric_mean(mine.seconds / theirs.seconds for mine, theirs in both)
            whole = statistics.geometric_mean((m.seconds + m.check) / t.seconds for m, t in both)
            print(
                f"{kind}: our time over the peer's, geometric mean of {len(both)}: {bare:.2f}; with the check {whole:.2f}"
            )


if __name__ == "__main__":
    main()
