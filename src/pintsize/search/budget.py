"""The budget search: try networks on the path of least damage, confirm, back off, keep the best that fits."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..deploy.layer_latency import LayerTimes
from ..graph import ChannelGroup, Graph, analyse
from ..pruning.channels.depth import residual_blocks
from ..pruning.channels.removal import kept_multiple
from ..recipe.training import RecoverSection
from .allocation import Allocation, CostModel, Space, dearest_within
from .candidate import DENSE, QUANTIZED, Workshop, describe, point_of
from .clock import Clock
from .damage import Damage, damage_of, levels_of
from .latency_table import LatencyTable, layers_of, weight_layers

if TYPE_CHECKING:
    from torch import nn

    from ..run.stages.stages import Stages

logger = logging.getLogger(__name__)

_SCANNED = 256
"""Images on which changes are judged."""
_LEFT = 0.1
"""Share of a cut's damage that is expected to be left after a recovery, until one has been seen."""
_EARNED = 1.0
"""Points that a full recovery is expected to gain over a short one, until one has been seen."""
_INTEGERS_MAY_LOSE = 1.0
"""Points, where a cost is the budget. Of a metric that is no percentage, a point is a hundredth of the dense network's."""
_LEAST = 1e-3
"""Share of a network's cost below which predictions are not told apart."""
_WORTHWHILE = 0.97
"""A further network is tried only if it is predicted to cost less than this share of the best one."""
_FITS = 0.97
"""Share of a limit of latency that a network has to fit in before its recovery: the second time differs a little."""


class BudgetSearch:
    """The search of one run.

    Args:
        stages: of the run; its dense network is trained, and the recipe has a budget.
    """

    def __init__(self, stages: Stages) -> None:
        assert stages.recipe.budget is not None
        self.stages, self.options = stages, stages.recipe.budget
        self.clock = Clock(self.options.time_limit)
        self.rows: list[dict[str, Any]] = []
        model = stages.model("dense.safetensors")
        graph = analyse(model, stages.example)
        images = stages.data.val.at_most(_SCANNED, stages.recipe.seed)
        self.workshop = Workshop(stages, graph.groups, images, self.options.cut_by, self.clock)
        quantize = stages.recipe.quantize
        bits = None if quantize is None else quantize.weights
        assert not isinstance(bits, dict)  # bits by pattern and a budget do not go together
        self.widths: list[int | None] = [None] if bits is None else [None, bits]
        if bits == 8 and self.options.minimize == "bytes":
            self.widths.append(4)
        levels = {group.name: levels_of(_choices(group)) for group in graph.groups}
        blocks = residual_blocks(model, stages.example) if self.options.drop_blocks else {}
        settings = [self.options.cut_by, self.options.minimize, levels, blocks, self.widths, _SCANNED,
                    *(() if quantize is None else (quantize.activations, quantize.ignore)),
                    self.workshop.surroundings if self.options.minimize == "latency" else None]  # fmt: skip
        scan = self.workshop.part(
            "budget-scan", settings, lambda: self._scan(model, graph, levels, blocks, images)
        )
        damage = Damage.from_json(scan["damage"])
        times = {
            name: {(i, o): LayerTimes(f, n) for i, o, f, n in rows} for name, rows in scan["times"].items()
        }
        layers = layers_of(model, graph, stages.example, list(times) or list(damage.layers))
        cost = CostModel(graph, layers, self.options.minimize, times)
        self.space = Space(graph.groups, levels, self.widths, damage, cost)
        self.path: list[Allocation] = []
        self._left, self._earned, self._point = _LEFT, _EARNED, 1.0
        self._least = math.inf
        self._width: int | None = None
        self._allocations: dict[str, Allocation] = {}
        self._walk()

    def _scan(
        self,
        model: nn.Module,
        graph: Graph,
        levels: dict[str, list[int]],
        blocks: dict[str, str],
        images: Any,
    ) -> dict[str, Any]:
        """Damage of each change, and times of each layer."""
        stages, quantize = self.stages, self.stages.recipe.quantize
        activations = None if quantize is None else quantize.activations
        assert not isinstance(activations, dict)
        damage = damage_of(
            model, images, example=stages.example, levels=levels, blocks=blocks, widths=self.widths, activations=activations,
            ignore=() if quantize is None else quantize.ignore, importance=self.options.cut_by, seed=stages.recipe.seed,
        )  # fmt: skip
        times: dict[str, Any] = {}
        if self.options.minimize == "latency":
            table = LatencyTable(backend=stages.recipe.export.backend, threads=stages.recipe.export.threads)
            for layer in layers_of(model, graph, stages.example, weight_layers(graph)):
                found = table.measure(layer)
                times[layer.name] = [[*pair, each.floating, each.integer] for pair, each in found.items()]
            logger.info("latency table %s: %d layers timed", table.path, table.measured)
        return {"damage": damage.to_json(), "times": times}

    @property
    def chosen(self) -> dict[str, Any]:
        """The candidate that the search ended with, `history` and all."""
        return self._best()

    def run(self) -> dict[str, Any]:
        """Search; the candidates and the chosen one as `metrics.json` has them."""
        dense = self._try(DENSE, self.space.dense(), 0)
        if dense is not None:
            self._point = point_of(dense)
            self._earned = self._point * _EARNED
        if len(self.widths) > 1:
            self._start_from_integers()
        if self.options.limit is None:
            self._cheapest()
        else:
            self._most_accurate(self.options.limit)
        self._compare()
        return self._result()

    def _compare(self) -> None:
        """Measure the candidates that meet a budget of drop side by side: the machine has slow and fast minutes."""
        names = [row["name"] for row in self.rows if row["meets"]]
        if names and self.options.limit is None and self.options.minimize == "latency":
            for name, times in self.workshop.times_again(names).items():
                self._row(name).update(times)

    def _start_from_integers(self) -> None:
        """Where integers alone keep within the budget, every layer has them: changing to and fro costs time.

        Elsewhere, and only there, some layers may have to stay in floating point.
        """
        self.workshop.reference = QUANTIZED
        row = self._try(QUANTIZED, self.space.dense(self.widths[1]), 0)
        within = row is not None and (
            row["drop"] <= self._point * _INTEGERS_MAY_LOSE if self.options.max_drop is None else row["meets"]
        )
        if within or self.options.minimize == "macs":
            self._width = self.widths[1]
            self._walk()

    def _cheapest(self) -> None:
        """Bracket by short recoveries, then confirm with full ones, and back off where the budget breaks."""
        epochs = self._epochs
        short = min(epochs, self.options.probe_epochs or max(1, epochs // 5))
        for number in range(1, self.options.probes + 1 if epochs else 1):
            one = self._middle(min([self._best()["predicted"], *self._hopeful()]))
            # a confirmation of half its epochs on the right network tells more than a full one on a wrong one
            if one is None or self._tried(one) or not self._time_for(short + epochs / 2):
                break
            if self._try(f"probe-{number}", one, short) is None:
                return
        for number in range(1, self.options.confirmations + 1):
            best = self._best()["predicted"]
            failed = self._failed_below(best)
            hopeful = [cost for cost in self._hopeful() if failed < cost < _WORTHWHILE * best]
            probe = next((name for name, each in self._allocations.items()
                          if name.startswith("probe") and hopeful and each.cost == min(hopeful)), None)  # fmt: skip
            one = self._allocations[probe] if probe else self._middle(best)
            if one is None or self._tried(one, fully=True):
                # nothing cheaper is left to try: the best deserves its full recovery
                probe = self._best()["name"]
                one = self._allocations[probe]
            afford = self._affordable(epochs)
            if (epochs and not afford) or self._tried(one, fully=True):
                return
            row = self._try(f"full-{number}", one, afford)
            if row is None:
                return
            if probe:
                self._earned = max(0.0, self._row(probe)["drop"] - row["drop"])

    @property
    def _epochs(self) -> int:
        """Of a full recovery."""
        return (self.stages.recipe.recover or RecoverSection()).epochs

    def _hopeful(self) -> list[float]:
        """Costs of the networks that a full recovery is expected to bring within the budget."""
        return [
            r["predicted"]
            for r in self._probes()
            if self._excess(r) <= self._earned and not self._confirmed(r)
        ]

    def _confirmed(self, row: dict[str, Any]) -> bool:
        """Whether the network of a probe had a full recovery, too."""
        return self._tried(self._allocations[row["name"]], fully=True)

    def _middle(self, good: float) -> Allocation | None:
        """Of the networks between `good` and what broke the budget, the one as far from both by ratio; None if none is."""
        failed = self._failed_below(good)
        between = [one for one in self.path if failed < one.cost < _WORTHWHILE * good]
        least = _LEAST * good
        goal = math.sqrt(good * max(failed, self.path[-1].cost, least))
        return min(between, key=lambda one: abs(math.log(max(one.cost, least) / goal)), default=None)

    def _failed_below(self, cost: float) -> float:
        """The cost of the dearest network below `cost` that broke the budget, or is expected to; -inf if none did."""
        failed = [
            r["predicted"]
            for r in self.rows
            if r["finished"] and not r["meets"] and r["predicted"] < cost
            and (r["epochs"] or not self._epochs)  # one without any recovery tells nothing of those with one
            and not (r in self._probes() and (self._excess(r) <= self._earned or self._confirmed(r)))
        ]  # fmt: skip
        return max(failed, default=-math.inf)

    def _probes(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["name"].startswith("probe") and row["finished"]]

    def _row(self, name: str) -> dict[str, Any]:
        return next(row for row in self.rows if row["name"] == name)

    def _most_accurate(self, limit: float) -> None:
        """Fit the cost first, without training; then one full recovery, or more if the file missed the limit."""
        if self.rows[0]["meets"] or (self.rows[-1]["meets"] and self._width is not None):
            return  # nothing has to go
        room = limit * (_FITS if self.options.minimize == "latency" else 1.0)
        missed: list[Allocation] = []
        for number in range(1, self.options.confirmations + 1):
            if self.clock.left <= 0:
                return
            one = self._fitted(f"fit-{number}", room, missed)
            if one is None:
                logger.info("budget: even the cheapest network is above the limit")
                return
            epochs = self._affordable(self._epochs)
            if one.prunes and self._epochs and not epochs:
                return  # cut and never recovered it would be ruined
            row = self._try(f"full-{number}", one, epochs)
            if row is None or row["meets"]:
                return
            room *= _FITS * limit / self._cost(row)
            missed.append(one)

    def _fitted(self, name: str, room: float, missed: Sequence[Allocation]) -> Allocation | None:
        """A network that just keeps within `room`, as measured; None if even the cheapest on the path does not.

        Args:
            name: of the measurements.
            room: what the file may cost.
            missed: networks that proved too dear once they were trained.
        """
        known, began = self.rows[-1], self.clock.spent

        def fitted(prefix: str, path: Sequence[Allocation]) -> Allocation | None:
            def measured(one: Allocation) -> float:
                cost = self._cost(self.workshop.cost(f"{prefix}-{path.index(one)}", one))
                self._least = min(self._least, cost)
                return cost

            return dearest_within(path, room, measured, scale=self._cost(known) / known["predicted"])

        path = [one for one in self.path if one not in missed]
        found = fitted(name, path)
        if found is None:
            return None
        dearer = reversed(path[: path.index(found)])
        whole = next((one for one in dearer if one.blocks != found.blocks), None)
        took = self.clock.spent - began
        time = took <= self.clock.left and self._affordable(self._epochs, but=took) == self._epochs
        if whole is None or not time:
            return found  # no block went, or the recovery needs the time
        # the last block to go may be more than has to go: channels or bits in its place may do less damage
        onward = self.space.path(self._left, whole, blocks=False)[1:]
        less = [one for one in onward if one.error(self._left) < found.error(self._left)]
        return fitted(f"{name}-finer", [whole, *(one for one in less if one not in missed)]) or found

    def _try(self, name: str, allocation: Allocation, epochs: int) -> dict[str, Any] | None:
        """Make a candidate and tell about it; None if time ran out over it."""
        self._allocations[name] = allocation
        row = self.workshop.make(name, allocation, epochs)
        row["finished"] = "stopped" not in row
        self.rows.append(row)
        row["meets"] = row["finished"] and self._meets(row)
        if row["finished"] and self.options.limit is not None and self.options.minimize == "latency":
            row["judged_ms"] = self._cost(row)
        self._tell(row)
        if row["finished"]:
            self._learn(row, allocation)
        return row if row["finished"] else None

    def _meets(self, row: dict[str, Any]) -> bool:
        if self.options.limit is None:
            return self._excess(row) <= 1e-9
        return bool(self._cost(row) <= self.options.limit)

    def _excess(self, row: dict[str, Any]) -> float:
        """By how many points the drop, and what it may be wrong by, is above the budget."""
        return float(row["drop"] + self.options.margin * row["drop_error"] - (self.options.max_drop or 0.0))

    def _cost(self, row: dict[str, Any]) -> float:
        """As measured on the file; a latency as a share of the reference's, timed in turns, by what that took at first.

        Milliseconds of minutes apart do not compare. The reference is the dense network in integers where there is
        one: what slows a machine down slows files of one kind alike, and others not.
        """
        if self.options.minimize == "latency" and self.options.limit is None:
            return float(row["relative_latency"])  # candidates alone are compared, and in the end in one go
        if self.options.minimize == "latency":
            return float(row["share"] * self._row(row["reference"])["latency_ms"])
        return float(row[self.options.minimize])

    def _best(self) -> dict[str, Any]:
        """Of those that meet the budget; the dense network if none does."""
        meeting = [row for row in self.rows if row["meets"]]
        if not meeting:
            return self.rows[0]
        if self.options.limit is not None:
            return max(meeting, key=lambda row: (-row["drop"], -self._cost(row)))
        return min(meeting, key=lambda row: (self._cost(row), row["drop"]))

    def _tried(self, one: Allocation, *, fully: bool = False) -> bool:
        return any(
            each == one and not (fully and name.startswith("probe"))
            for name, each in self._allocations.items()
        )

    def _walk(self) -> None:
        self.path = self.space.path(self._left, self.space.dense(self._width))

    def _learn(self, row: dict[str, Any], one: Allocation) -> None:
        """How much damage recovery leaves, seen on one network, makes the path of the next ones."""
        if one.cut_error > 0:
            self._left = min(1.0, max(0.01, row["cut_error"] / one.cut_error))
            self._walk()

    def _seconds_per_epoch(self) -> float:
        """Of recovery, with the training at few bits and the measurement after it, as with the last candidate.

        Before there is one: the dense training's, and the teacher's share more.
        """
        seen = [row for row in self.rows if row["finished"] and row["epochs"]]
        if seen:
            epochs = [epoch["seconds"] for epoch in seen[-1].get("history", ())]
            return float(max(seen[-1]["seconds"] / seen[-1]["epochs"], *epochs, 0.0))
        dense = [epoch["seconds"] for epoch in self.stages.results["train"].get("history", ())]
        return float(1.5 * max(dense, default=0.0))

    def _time_for(self, epochs: float) -> bool:
        return epochs * self._seconds_per_epoch() <= self.clock.left

    def _affordable(self, epochs: int, *, but: float = 0.0) -> int:
        """As many epochs as there is time for, `but` seconds aside; some is kept for what varies."""
        each = self._seconds_per_epoch()
        if each == 0 or math.isinf(self.clock.left):
            return epochs
        return max(0, min(epochs, int(0.9 * (self.clock.left - but) / each)))

    def _tell(self, row: dict[str, Any]) -> None:
        """One line in the log and, unless silence was asked for, on standard error."""
        told = describe(row) if row["finished"] else f"{row['name']}: stopped by the time limit"
        text = f"{told}; best so far: {self._best()['name']}"
        logger.info("budget: %s", text)
        if self.stages.progress is not False:
            from rich.console import Console

            Console(file=sys.stderr, soft_wrap=True).print(f"budget  {text}", highlight=False, markup=False)

    def _result(self) -> dict[str, Any]:
        best = self._best()
        keys = ("name", "finished", "meets", "epochs", "quantized_epochs", "val_accuracy", "val_metric", "drop",
                "drop_error", "latency_ms", "relative_latency", "judged_ms", "bytes", "macs", "params", "seconds", "removed",
                "bits", "blocks")  # fmt: skip
        met = best["meets"] and (self.options.limit is not None or best["name"] != DENSE)
        return {
            "max_drop": self.options.max_drop,
            "minimize": self.options.minimize,
            "limit": self.options.limit,
            "met": met,
            "chosen": best["name"],
            "least": min(self._least, *(self._cost(row) for row in self.rows if row["finished"])),
            "seconds": self.clock.spent,
            "time_limit": self.options.time_limit,
            "candidates": [{key: row[key] for key in keys if key in row} for row in self.rows],
        }


def _choices(group: ChannelGroup) -> list[int]:
    """Numbers of units that may go, so that the runtimes' kernels like what is left."""
    multiple = kept_multiple(group, "auto")
    return [n for n in range(group.size) if n == 0 or (group.size - n) * group.channels % multiple == 0]
