"""One network of a search: cut, recovered, quantized, exported, and measured as the file that it is."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from ..data.batches import arrays
from ..deploy import export, open_runtime, open_runtimes
from ..graph import ChannelGroup
from ..measure import profile, side_by_side
from ..pruning import drop_blocks, prune
from ..quant import QuantizationAware, fold_batchnorm, quantize
from ..quant.network import patterns
from ..recipe.training import RecoverSection
from ..storage.markers import read_marker
from ..storage.network_file import save
from ..storage.replay import replay
from ..tables import judged
from ..training.evaluation import records_of
from ..units import Scale, bytes_text, count_text, milliseconds_text
from .allocation import Allocation
from .clock import Clock, Deadline, TimeIsUp
from .damage import logits, relative_error
from .latency_table import cache_file

if TYPE_CHECKING:
    from ..data import Split
    from ..run.stages.stages import Stages

DENSE = "dense"
"""Name of the candidate that is the dense network in floating point."""
QUANTIZED = "quantized"
"""Name of the one with every layer in integers."""
_FINE_TUNED_BELOW = 8
"""Layers with fewer bits are trained with their quantizers; at 8 bits calibration does as well."""
_QUANTIZED_LR = 0.3
"""Learning rate of that training, as a share of that of the recovery."""
_REPEATS = 100
"""Timed calls of a file in one go."""
_SECONDS = 1.0
"""A file that is quick is opened and timed again until so much time has passed: one moment tells little."""


class Workshop:
    """Makes candidates in the run folder's `budget/`.

    Args:
        stages: of the run; its dense network is trained.
        groups: channel groups of the dense network.
        images: a sample on which networks are compared.
        criterion: says which channels of a layer go first.
        clock: of the search.
    """

    def __init__(
        self, stages: Stages, groups: Sequence[ChannelGroup], images: Split, criterion: str, clock: Clock
    ) -> None:
        self.stages, self.groups, self.images = stages, groups, images
        self.criterion, self.clock = criterion, clock
        self.reference = DENSE
        """The candidate whose file every other is timed in turns with, besides the dense network's."""
        assert stages.recipe.budget is not None
        how, export_ = ["share"], stages.recipe.export
        self._minimize = stages.recipe.budget.minimize
        if self._minimize == "latency":
            how.append(cache_file(export_.backend, export_.threads).stem)
        self.surroundings = [*how, export_.backend, export_.opset]
        """What a file and its measurement depend on, besides the network."""
        self.folder = stages.folder.path / "budget"
        self._known_records: dict[Path, Sequence[Any]] = {}
        self._wanted = logits(stages.model("dense.safetensors"), images)

    def make(self, name: str, allocation: Allocation, epochs: int) -> dict[str, Any]:
        """A candidate's row; made once, then read from the folder.

        Its networks are `budget/NAME-float.safetensors`, `budget/NAME.safetensors` and `budget/NAME.onnx`.
        """
        self._forget_stopped(f"budget-{name}-recover")
        plan = _plan(allocation)
        recover = self.recovery(epochs).model_dump(mode="json")
        cut = self._part(
            f"budget-{name}-recover", [plan, recover, self.criterion], [f"budget/{name}-float.safetensors"],
            lambda key: self._recovered(name, allocation, epochs, key),
        )  # fmt: skip
        row = {
            "name": name,
            "prunes": allocation.prunes,
            **plan,
            "epochs": epochs,
            "predicted": allocation.cost,
            **cut,
        }
        if "stopped" in cut:
            return row
        files = [f"budget/{name}.safetensors", f"budget/{name}.onnx"]
        made = self._part(
            f"budget-{name}", self._decided_by(plan), files,
            lambda key: self._measured(name, allocation, epochs, key),
        )  # fmt: skip
        return {**row, **made, "seconds": cut["seconds"] + made["seconds"]}

    def _forget_stopped(self, name: str) -> None:
        """Let what another time limit stopped be tried again."""
        marker = self.stages.folder.path / "stages" / f"{name}.json"
        done = read_marker(marker)
        if done is not None and done["result"].get("stopped", self.clock.limit) != self.clock.limit:
            marker.unlink()

    def recovery(self, epochs: int) -> RecoverSection:
        """The recipe's training after a cut, with so many epochs."""
        return (self.stages.recipe.recover or RecoverSection()).model_copy(update={"epochs": epochs})

    def cost(self, name: str, allocation: Allocation) -> dict[str, Any]:
        """What an allocation costs, by its file unless it is about MACs, found without any training."""

        def measure(_: str) -> dict[str, Any]:
            net = self._cut(allocation)
            if self._minimize == "macs":  # which no file changes
                return {"macs": profile(net, self.stages.example).macs}
            path = self.folder / f"{name}.onnx"
            self._export(self._quantized(net, allocation), path)
            found = self._times({name: path})[name] if self._minimize == "latency" else {}
            found["bytes"] = path.stat().st_size
            path.unlink()
            return found

        plan = _plan(allocation)
        return self._part(f"budget-{name}", self._decided_by(plan), [], measure)

    def _part(self, name: str, inputs: Any, outputs: list[str], run: Any) -> dict[str, Any]:
        """A stage of the folder whose result holds its seconds, which the clock counts whenever it was done."""

        def timed(key: str) -> dict[str, Any]:
            self.clock.begin()
            result = run(key)
            return {**result, "seconds": self.clock.elapsed}

        result = self.stages.folder.stage(name, inputs=inputs, outputs=outputs, run=timed)
        self.clock.spent += result["seconds"]
        return result

    def part(self, name: str, inputs: Any, run: Any) -> dict[str, Any]:
        """A piece of work without files, done once."""
        return self._part(name, inputs, [], lambda _: run())

    def _recovered(self, name: str, allocation: Allocation, epochs: int, key: str) -> dict[str, Any]:
        net = self._cut(allocation)
        path = self.folder / f"{name}-float.safetensors"
        history: list[dict[str, Any]] = []
        try:
            if epochs and allocation.prunes:
                history = self._fit(net, f"budget-{name}", key, self.recovery(epochs), [])
        except TimeIsUp:
            save(self._cut(allocation), path)
            return {"stopped": self.clock.limit, "history": []}
        save(net, path)
        error = relative_error(logits(self._load(path.name), self.images), self._wanted)
        return {"history": history, "cut_error": error}

    def _fit(
        self, net: nn.Module, name: str, key: str, section: RecoverSection, callbacks: list[Any]
    ) -> list[dict[str, Any]]:
        return self.stages.fit(
            net,
            name,
            key,
            section,
            teacher=self.stages.teacher(section),
            callbacks=[*callbacks, Deadline(self.clock)],
        )

    def _measured(self, name: str, allocation: Allocation, epochs: int, key: str) -> dict[str, Any]:
        """Quantize, with training where bits are few, export, and measure the file."""
        file = self.folder / f"{name}.safetensors"
        recovered = self._load(f"{name}-float.safetensors")
        net, tuned = self._finished(recovered, name, allocation, epochs, key)
        save(net, file)
        net = self._load(file.name)
        path = self.folder / f"{name}.onnx"
        self._export(net, path)
        metric = self.stages.task.judged()
        now, whole = self._records(path), self._records(self._dense_file())
        drop, error = metric.drop(whole, now)
        cost = profile(net, self.stages.example)
        return {
            **self.stages.figures(metric.value(now), "val_"),
            "drop": drop,
            "drop_error": error,
            "quantized_epochs": tuned,
            "bytes": path.stat().st_size,
            "macs": cost.macs,
            "params": cost.params,
            **self._times({name: path})[name],
        }

    def _finished(
        self, recovered: nn.Module, name: str, allocation: Allocation, epochs: int, key: str
    ) -> tuple[nn.Module, int]:
        """The quantized network, and for how many epochs it was trained as such: where bits are few, half as many."""
        narrow = any(width is not None and width < _FINE_TUNED_BELOW for width in allocation.bits.values())
        if narrow and epochs:
            section = self.recovery(max(1, epochs // 2))
            section = section.model_copy(update={"lr": section.lr * _QUANTIZED_LR})
            net = self._quantized(recovered, allocation, method="lsq")
            try:
                self._fit(net, f"tune-budget-{name}", key, section, [QuantizationAware()])
            except TimeIsUp:
                return self._quantized(recovered, allocation), 0
            net = self.stages.norms_anew(net, augment=section.augment)
            fold_batchnorm(net, self.stages.example)
            return net, section.epochs
        return self._quantized(recovered, allocation), 0

    def _quantized(self, net: nn.Module, allocation: Allocation, *, method: str | None = None) -> nn.Module:
        """A quantized copy; the network itself if every layer stays in floating point."""
        section = self.stages.recipe.quantize
        if section is None or not allocation.quantizes:
            return net
        net, activations = copy.deepcopy(net), section.activations
        # a pattern may name layers that went with their block alone
        left = {name.rpartition(".")[0] for name, _ in net.named_parameters()}
        ignore = [p for p in section.ignore if any(patterns.matches(layer, p) for layer in left)]
        assert not isinstance(activations, dict)  # bits by pattern and a budget do not go together
        quantize(
            net,
            weights=dict(allocation.bits),
            activations={name: activations if bits else None for name, bits in allocation.bits.items()},
            calibration=self.stages.some_training_images(section.calibration_images),
            method=method or section.method,
            progress=False,
            seed=self.stages.recipe.seed,
            ignore=ignore,
            **section.model_dump(exclude={"weights", "activations", "method", "edges", "ignore"}),
        )
        return net

    def _decided_by(self, plan: dict[str, Any]) -> list[Any]:
        """All that an exported file and its measurement depend on."""
        section = self.stages.recipe.quantize
        settings = None if section is None else section.model_dump(mode="json")
        return [plan, settings, self.reference, self.surroundings]

    def _export(self, net: nn.Module, path: Path) -> None:
        stages = self.stages
        export(
            net, path, example=stages.example, opset=stages.recipe.export.opset, classes=stages.data.classes,
            mean=stages.data.mean, std=stages.data.std, check=False,  # the chosen one is proved when it is exported
        )  # fmt: skip

    def times_again(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Latencies of candidates that are measured together, in turns, so that small differences mean something."""
        files = {name: self.folder / f"{name}.onnx" for name in names}
        inputs = [*names, self.reference, self.surroundings]
        found = self.part("budget-times", inputs, lambda: {"times": self._times(files)})
        times: dict[str, dict[str, Any]] = found["times"]
        return times

    def _times(self, files: dict[str, Path]) -> dict[str, dict[str, Any]]:
        """In turns with the dense network's file and the reference's, so that a slow spell of the machine hits all."""
        backend, threads = self.stages.recipe.export.backend, self.stages.recipe.export.threads
        whole, reference = self._dense_file(), self.folder / f"{self.reference}.onnx"
        every = {**files, "/whole": whole, "/reference": reference}
        runs: dict[str, list[float]] = {name: [] for name in every}
        image, began = arrays(self.stages.example), time.monotonic()
        while not runs["/whole"] or (self._minimize == "latency" and time.monotonic() - began < _SECONDS):
            with open_runtimes(every, backend=backend, threads=threads) as runtimes:
                for name, times in side_by_side(runtimes, image, repeats=_REPEATS, threads=threads).items():
                    runs[name] += times.runs
        median = {name: float(np.median(each)) for name, each in runs.items()}
        # other work of the machine only adds to a time, and by far more now and then
        quick = {name: float(np.percentile(each, 10)) for name, each in runs.items()}
        return {
            name: {"latency_ms": median[name], "relative_latency": median[name] / median["/whole"],
                   "reference": self.reference, "share": quick[name] / quick["/reference"]}
            for name in files
        }  # fmt: skip

    def _dense_file(self) -> Path:
        whole = self.folder / f"{DENSE}.onnx"
        if not whole.exists():
            self._export(self.stages.model("dense.safetensors"), whole)
        return whole

    def _records(self, path: Path) -> Sequence[Any]:
        """What the metric notes of each validation image, of a file."""
        if path not in self._known_records:
            export_ = self.stages.recipe.export
            with contextlib.closing(
                open_runtime(path, backend=export_.backend, threads=export_.threads)
            ) as runtime:
                self._known_records[path] = records_of(runtime, self.stages.data.val, task=self.stages.task)
        return self._known_records[path]

    def _load(self, file: str) -> nn.Module:
        return replay(self.folder / file, self.stages.start().cpu()).eval()

    def _cut(self, allocation: Allocation) -> nn.Module:
        stages = self.stages
        net = copy.deepcopy(stages.model("dense.safetensors"))
        if not allocation.prunes:
            return net
        if allocation.blocks:
            drop_blocks(net, stages.example, sorted(allocation.blocks))
        left, groups = dict(net.named_modules()), {group.name: group for group in self.groups}
        ratios = {
            next(layer for layer in groups[name].layers if layer in left): count / groups[name].size
            for name, count in allocation.removed.items()
            if count
        }
        if ratios:
            prune(
                net, stages.example, ratios=ratios, scope="local", importance=self.criterion, data=self.images,
                seed=stages.recipe.seed,
            )  # fmt: skip
        return net


def _plan(allocation: Allocation) -> dict[str, Any]:
    """What is done to the network, as markers and metrics have it."""
    return {
        "removed": dict(allocation.removed),
        "bits": dict(allocation.bits),
        "blocks": sorted(allocation.blocks),
    }


def describe(row: dict[str, Any]) -> str:
    """A candidate in words."""
    scale = Scale.of(row)
    return (
        f"{row['name']}: {scale.told(judged(row, 'val_') or 0.0)} "
        f"(drop {scale.number(row['drop'])} ± {scale.number(row['drop_error'])}), "
        f"{milliseconds_text(row.get('judged_ms', row['latency_ms']))} ({row['relative_latency']:.2f} of dense), "
        f"{bytes_text(row['bytes'])}, {count_text(row['macs'])} MACs, {row['epochs']} epochs"
        f"{'' if row['meets'] else ', over the budget'}"
    )


def point_of(dense: dict[str, Any]) -> float:
    """What counts as a point of the metric: one percent, or a hundredth of what the dense network has."""
    scale = Scale.of(dense)
    return 1.0 if scale.unit == "%" else abs(judged(dense, "val_") or 0.0) / 100
