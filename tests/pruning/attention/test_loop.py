"""The loop: who trains when, when recovery ends, when everything stops, and that a resume changes no bit."""

from __future__ import annotations

import copy
import csv
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import InputError
from pintsize.graph import analyse
from pintsize.pruning import AttentionOptions, prune_by_attention
from pintsize.pruning.attention import sites as attention_sites
from pintsize.pruning.attention.layers import Attended
from pintsize.pruning.attention.loop import AttentionLoop
from pintsize.quant import activation_quantizers
from pintsize.training import Callback, TrainState

FAST: dict[str, Any] = {
    "attention_lr": 0.05, "lr": 1e-3, "batch_size": 32, "weight_penalty": 0.0, "recovery_epochs": 2,
    "late_recovery_epochs": 2, "augment": False, "precision": "fp32", "progress": False,
}  # fmt: skip


class Net(nn.Module):
    """Two residual blocks' worth of structure in as few weights as possible."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 10, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(10)
        self.short = nn.Conv2d(8, 10, 1, stride=2, bias=False)
        self.head = nn.Linear(10, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.stem(x)).relu()
        x = (self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + self.short(x)).relu()
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


@pytest.fixture(scope="module")
def data() -> Any:
    return ps.data.load("digits", limit=300, val_fraction=0.2)


@pytest.fixture(scope="module")
def trained(data: Any) -> nn.Module:
    torch.manual_seed(0)
    model = Net()
    ps.train(model, data, epochs=12, lr=0.1, batch_size=32, augment=False, precision="fp32", progress=False)
    return model


def pruned(trained: nn.Module, data: Any, **options: Any) -> tuple[nn.Module, Any]:
    model = copy.deepcopy(trained)
    return model, prune_by_attention(model, data, **{**FAST, **options})


class Watch(Callback):
    """Notes in each epoch whether attention and weights have moved."""

    def __init__(self) -> None:
        self.moved: list[tuple[bool, bool]] = []

    def _now(self, state: TrainState) -> tuple[torch.Tensor, torch.Tensor]:
        named = dict(state.model.named_parameters())
        attention = torch.cat([p.detach().clone() for n, p in named.items() if n.endswith("attention")])
        return attention, named["head.weight"].detach().clone()

    def on_epoch_start(self, state: TrainState) -> None:
        self.before = self._now(state)

    def on_epoch_end(self, state: TrainState) -> None:
        now = self._now(state)
        a, w = (not torch.equal(x, y) for x, y in zip(self.before, now, strict=True))
        self.moved.append((a, w))


def test_attention_is_trained_in_the_first_epoch_of_each_recovery_alone(
    trained: nn.Module, data: Any
) -> None:
    watch = Watch()
    _, result = pruned(trained, data, attention_epochs=2, callbacks=(watch,))
    firsts = [row["recovery_epoch"] == 0 for row in result.history]
    assert [a for a, _ in watch.moved] == firsts
    assert all(w for _, w in watch.moved)


def test_recovery_ends_at_the_moving_average_or_its_cap(trained: nn.Module, data: Any) -> None:
    _, result = pruned(trained, data, attention_epochs=5, average_over=2, late_from=3, late_recovery_epochs=3)
    bests: list[float] = []
    rows: list[dict[str, Any]] = []
    for row in result.history:
        rows.append(row)
        average = sum(bests[-2:]) / len(bests[-2:]) if bests else result.baseline
        assert row["threshold_accuracy"] == pytest.approx(average)
        assert row["recovered"] == (row["val_accuracy"] >= average)
        cap = 2 if row["attention_epoch"] < 3 else 3
        assert row["ends"] == (row["recovered"] or row["recovery_epoch"] + 1 == cap)
        if row["ends"]:
            bests.append(max(r["val_accuracy"] for r in rows))
            rows = []
    assert [row["attention_epoch"] for row in result.history if row["ends"]] == [0, 1, 2, 3, 4]
    assert len(result.recovery_ends) == 5


def test_what_is_removed_is_gone_for_good(trained: nn.Module, data: Any) -> None:
    _, result = pruned(trained, data, attention_epochs=4)
    kept = [row["kept"] for row in result.history]
    assert all(later[name] <= earlier[name] for earlier, later in itertools.pairwise(kept) for name in later)
    assert kept[-1]["conv1"] < 1
    assert all(row["removed"] == 0 for row in result.history if row["recovery_epoch"])


def test_stops_at_the_target_and_not_far_below(trained: nn.Module, data: Any) -> None:
    model, result = pruned(trained, data, attention_epochs=30, target=0.6)
    left = sum(p.numel() for p in model.parameters()) / sum(p.numel() for p in trained.parameters())
    assert result.reason == "the target of 60.0% of the parameters is reached"
    assert 0.5 < left <= 0.6
    assert left == pytest.approx(result.history[-1]["params"])


def test_stops_when_pruning_stalls(trained: nn.Module, data: Any) -> None:
    _, result = pruned(trained, data, attention_epochs=30, attention_lr=1e-6, patience=2, recovery_epochs=1)
    assert len(result.history) == 2
    assert result.reason == "2 attention epochs removed nothing"
    assert result.plan.removed == {}


def test_stops_at_the_drop_and_goes_back_to_what_was_allowed(trained: nn.Module, data: Any) -> None:
    options = AttentionOptions(max_drop=10.0, recovery_epochs=1)
    example = next(iter(data.val.batches(2)))[0]
    graph = analyse(trained, example)
    sites = attention_sites.find(trained, graph, options)
    attended = Attended(copy.deepcopy(trained), graph, sites, options)
    loop = AttentionLoop(attended, options, baseline=90.0)
    optimizer = torch.optim.SGD(attended.model.parameters())
    state = TrainState(attended.model, optimizer, torch.device("cpu"), epochs=60, steps_per_epoch=1)
    loop.on_train_start(state)
    for epoch, accuracy in enumerate((89.0, 80.0, 79.9)):
        assert not state.stop
        loop.on_epoch_start(state)
        attended.vectors[0].remove(torch.tensor([epoch]))
        state.history.append({"val_accuracy": accuracy, "epoch": epoch})
        loop.on_epoch_end(state)
    assert state.stop
    assert loop.reason == "the drop is above 10 points"
    assert loop.finish()
    assert attended.vectors[0].kept.logical_not().nonzero().flatten().tolist() == [0, 1]  # as at 80 %
    assert attended.removed["conv1.weight"][0] == [0, 1]


def test_nothing_within_the_drop_leaves_the_network_alone(trained: nn.Module, data: Any) -> None:
    model, result = pruned(trained, data, max_drop=0.0, attention_weight=1.0, lr=1e-6)
    assert "the network is as it was" in result.reason
    assert result.plan.removed == {}
    same = zip(model.state_dict().values(), trained.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_unnormalised_attention_collapses_and_normalised_does_not(trained: nn.Module, data: Any) -> None:
    options = {
        "attention_epochs": 4, "recovery_epochs": 1, "attention_weight": 2.0, "attention_lr": 0.03, "at": "norm",
        "start": (1.0, 1.0),
    }  # fmt: skip
    _, without = pruned(trained, data, normalize="none", **options)
    _, normalised = pruned(trained, data, normalize="max", **options)
    assert without.history[-1]["kept"] == {"conv1": 0.0, "conv2": 0.0}  # whole layers are gone, for good
    assert min(normalised.history[-1]["kept"].values()) > 0.2
    assert normalised.history[-1]["val_accuracy"] > without.history[-1]["val_accuracy"] + 10


class Kill(Callback):
    """Ends the process, as it were, at the start of an epoch."""

    def __init__(self, epoch: int | None) -> None:
        self.epoch = epoch

    def on_epoch_start(self, state: TrainState) -> None:
        if state.epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("bits", [None, 4])
def test_resumes_to_the_bit(trained: nn.Module, data: Any, tmp_path: Path, bits: int | None) -> None:
    options = {"attention_epochs": 3, "weights": bits, "activations": bits, "max_drop": 100.0}
    whole, expected = pruned(trained, data, **options)
    path = tmp_path / "attention.ckpt"
    broken = copy.deepcopy(trained)
    with pytest.raises(KeyboardInterrupt):
        prune_by_attention(broken, data, **{**FAST, **options}, checkpoint=path, callbacks=(Kill(2),))
    same = zip(broken.state_dict().values(), trained.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    model, result = pruned(trained, data, **options, checkpoint=path, callbacks=(Kill(None),))
    state = model.state_dict()
    assert [row["val_accuracy"] for row in result.history] == [r["val_accuracy"] for r in expected.history]
    assert state.keys() == whole.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.state_dict().items())


def test_table_of_all_epochs_and_pictures(trained: nn.Module, data: Any, tmp_path: Path) -> None:
    model, result = pruned(trained, data, attention_epochs=2, csv=tmp_path / "epochs.csv")
    result.to_csv(tmp_path / "again.csv")
    text = (tmp_path / "epochs.csv").read_text()
    assert text == (tmp_path / "again.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == len(result.history)
    assert float(rows[-1]["kept conv1"]) == result.history[-1]["kept"]["conv1"]
    assert float(rows[-1]["params"]) == result.history[-1]["params"]
    from matplotlib import pyplot

    figures = result.figures(model)
    assert sorted(figures) == ["channels", "compression", "frontier", "layers", "training"]
    pyplot.close("all")


def test_errors_leave_the_network_as_it_was(trained: nn.Module, data: Any) -> None:
    model = copy.deepcopy(trained)
    with pytest.raises(InputError, match="did you mean 'attention_epochs'"):
        prune_by_attention(model, data, attention_epoch=3)
    with pytest.raises(InputError, match="validation"):
        prune_by_attention(
            model, dataclasses.replace(data, val=data.val.take(torch.empty(0, dtype=torch.int64))), **FAST
        )
    same = zip(model.state_dict().values(), trained.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


@pytest.mark.parametrize(
    ("first", "then", "name"),
    [
        ({}, {"alpha": 0.0}, "alpha"),
        ({}, {"target": 0.5}, "target"),
        ({"weights": 4, "activations": 4}, {"weights": 8, "activations": 8}, "weights"),
        ({"weights": 4, "activations": 4}, {"weights": 4, "activations": 4, "ranges": "mse"}, "ranges"),
    ],
)
def test_a_checkpoint_of_other_options_is_refused(
    trained: nn.Module, data: Any, tmp_path: Path, first: dict[str, Any], then: dict[str, Any], name: str
) -> None:
    path = tmp_path / "attention.ckpt"

    def start(kill: Kill, options: dict[str, Any]) -> None:
        few = {"attention_epochs": 3, "recovery_epochs": 1, "checkpoint": path, "callbacks": (kill,)}
        pruned(trained, data, **few, **options)

    with pytest.raises(KeyboardInterrupt):
        start(Kill(2), first)
    kept = path.read_bytes()
    with pytest.raises(InputError, match=rf"AttentionLoop\.{name} was .*, is "):
        start(Kill(None), then)
    assert path.read_bytes() == kept


@pytest.mark.parametrize("ranges", ["max", "mse"])
def test_activation_ranges_follow_what_passes_through(trained: nn.Module, data: Any, ranges: str) -> None:
    """With mse the share of the extent that was covered at first is kept."""
    options = {"weights": 4, "activations": 4, "ranges": ranges, "attention_epochs": 3, "recovery_epochs": 1}
    found = {}
    for decay in (1.0, 0.5):  # the average stands still, or is next to that of the last batches
        model, _ = pruned(trained, data, range_decay=decay, **options)
        found[decay] = {
            name: q.limits()[1] for name, q in activation_quantizers(model).items() if name != "input_0"
        }
    moved = [float(found[0.5][name] / found[1.0][name]) for name in found[1.0]]
    assert min(abs(ratio - 1) for ratio in moved) > 0.01


def test_masks_and_attention_are_not_mixed(trained: nn.Module, data: Any) -> None:
    model = copy.deepcopy(trained)
    ps.sparsify(model, density=0.5)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="whose weights have masks"):
        prune_by_attention(model, data, attention_epochs=1)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
