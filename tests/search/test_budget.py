"""The budget search from end to end, on digits with a small network: what it returns, keeps and repeats."""

import contextlib
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

import pintsize as ps
from pintsize.deploy import open_runtime
from pintsize.errors import InputError
from pintsize.recipe.recipe import Recipe
from pintsize.search.allocation import Allocation
from pintsize.search.budget import BudgetSearch
from pintsize.search.candidate import Workshop, point_of
from pintsize.search.clock import Clock
from pintsize.search.latency_table import cache_file
from pintsize.storage.network_file import read_tensors
from pintsize.tasks.classification import Classification

OPTIONS = {
    "epochs": 0, "recover_epochs": 2, "recover_lr": 0.02, "recover_batch_size": 32, "recover_precision": "fp32",
    "probes": 1, "confirmations": 1, "threads": 1, "progress": False,
}  # fmt: skip
MODEL = """
import torch
from torch import nn
import pintsize as ps

def make():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )
"""


@pytest.fixture(scope="module")
def data():
    return ps.data.load("digits", limit=300)


@pytest.fixture(scope="module")
def trained(data):
    torch.manual_seed(0)
    names = {}
    exec(MODEL, names)
    model = names["make"]()
    ps.train(model, data, epochs=8, lr=0.05, batch_size=32, augment=False, precision="fp32", progress=False)
    return model


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PINTSIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("pintsize.search.candidate._SECONDS", 0.0)


@pytest.fixture(scope="module")
def found(trained, data, tmp_path_factory):
    return ps.compress(
        trained, data, out=tmp_path_factory.mktemp("run") / "a", max_drop=20.0, minimize="macs", **OPTIONS
    )


def test_the_best_network_within_the_drop_is_returned_and_every_candidate_kept(found):
    budget = found.metrics["budget"]
    assert budget["met"] is True
    names = [row["name"] for row in budget["candidates"]]
    assert names == ["dense", "quantized", "probe-1", "full-1"]
    chosen = next(row for row in budget["candidates"] if row["name"] == budget["chosen"])
    meeting = [row for row in budget["candidates"] if row["meets"]]
    assert chosen["macs"] == min(row["macs"] for row in meeting) < budget["candidates"][0]["macs"]
    assert chosen["drop"] <= 20
    assert found.stages[-1]["macs"] == chosen["macs"]
    assert found.stages[-1]["bytes"] == pytest.approx(chosen["bytes"], rel=0.02)
    for row in budget["candidates"]:
        assert (found.folder / "budget" / f"{row['name']}.onnx").stat().st_size == row["bytes"]
    assert [stage["name"] for stage in found.stages] == ["dense fp32", "pruned fp32", "pruned int8"]
    assert found.metrics["verification"]["ok"]
    report = found.report.read_text()
    assert f"{budget['chosen']} (chosen)" in report
    assert report.count("<td>met</td>") == len(meeting)


def test_the_file_is_the_network(found, data):
    runtime = ps.open_runtime(found.path)
    assert ps.evaluate(runtime, data.test) == pytest.approx(found.stages[-1]["accuracy"])


def test_a_second_start_tries_nothing_again(found, trained, data):
    before = {path: path.stat().st_mtime_ns for path in (found.folder / "budget").iterdir()}
    again = ps.compress(trained, data, out=found.folder, max_drop=20.0, minimize="macs", **OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in (found.folder / "budget").iterdir()} == before
    assert again.metrics["budget"] == found.metrics["budget"]


def test_the_dense_network_is_returned_where_nothing_meets_the_budget(trained, data, tmp_path):
    found = ps.compress(
        trained, data, out=tmp_path / "a", max_latency=1e-6, **{**OPTIONS, "recover_epochs": 0}
    )
    budget = found.metrics["budget"]
    assert (budget["met"], budget["chosen"]) == (False, "dense")
    assert 1e-6 < budget["least"] <= min(row["judged_ms"] for row in budget["candidates"])
    assert [stage["name"] for stage in found.stages] == ["dense fp32"]
    assert found.path.name == "net.onnx"
    assert "The budget was not met" in found.report.read_text()


def test_under_a_limit_of_bytes_the_most_accurate_network_is_returned(trained, data, tmp_path):
    limit = 14_000
    found = ps.compress(trained, data, out=tmp_path / "a", max_bytes=limit, **OPTIONS)
    budget = found.metrics["budget"]
    assert budget["met"] is True
    assert found.path.stat().st_size <= limit
    meeting = [row for row in budget["candidates"] if row["meets"]]
    chosen = next(row for row in budget["candidates"] if row["name"] == budget["chosen"])
    assert chosen["val_accuracy"] == max(row["val_accuracy"] for row in meeting)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_latency_goes_by_the_table_of_this_machine_and_the_chosen_runtime(
    backend, trained, data, tmp_path, monkeypatch
):
    pytest.importorskip(backend, reason=f"the extra '{backend}' cannot be installed here")
    opened = []

    def recorded(path, **options):
        opened.append(options.get("backend"))
        return open_runtime(path, **options)

    monkeypatch.setattr("pintsize.search.candidate.open_runtime", recorded)
    monkeypatch.setattr("pintsize.deploy.runtime.open_runtime", recorded)
    options = {**OPTIONS, "probes": 0, "recover_epochs": 0, "backend": backend}
    found = ps.compress(trained, data, out=tmp_path / "a", max_drop=1.0, minimize="latency", **options)
    assert set(opened) == {backend}
    (table,) = (tmp_path / "cache" / "latency").iterdir()
    assert table == cache_file(backend, OPTIONS["threads"])
    assert len(json.loads(table.read_text())["times"]) == 3 + 9 + 3 + 1
    assert {row["latency"]["backend"] for row in found.stages} == {backend}
    assert found.metrics["verification"]["backend"] == backend


def test_another_runtime_judges_anew(trained, data, tmp_path):
    pytest.importorskip("openvino", reason="the extra 'openvino' cannot be installed here")
    options = {**OPTIONS, "out": tmp_path / "a", "max_macs": 1e9}
    one, two = (
        ps.compress(trained, data, **options, backend=backend).metrics["budget"]["candidates"][0][
            "latency_ms"
        ]
        for backend in ("onnxruntime", "openvino")
    )
    assert one != two


@pytest.mark.parametrize(("seconds", "times"), [(0.0, 1), (0.25, 3)])
def test_a_file_is_timed_in_fresh_sessions_for_so_long(seconds, times, tmp_path, monkeypatch):
    clock, opened = itertools.count(0.0, 0.1), []

    def runtimes(files, **options):
        opened.append(options)
        return contextlib.nullcontext(files)

    def side_by_side(runtimes, image, **options):
        ms = 2.0 + len(opened)
        return {name: SimpleNamespace(runs=[ms if name == "it" else 10.0 * ms] * 100) for name in runtimes}

    monkeypatch.setattr("pintsize.search.candidate._SECONDS", seconds)
    monkeypatch.setattr("pintsize.search.candidate.open_runtimes", runtimes)
    monkeypatch.setattr("pintsize.search.candidate.side_by_side", side_by_side)
    monkeypatch.setattr("pintsize.search.candidate.time.monotonic", lambda: next(clock))
    export = SimpleNamespace(backend="openvino", threads=3)
    shop = Workshop.__new__(Workshop)
    shop.stages = SimpleNamespace(recipe=SimpleNamespace(export=export), example=torch.zeros(2, 1, 8, 8))
    shop.folder, shop.reference, shop._minimize = tmp_path, "dense", "latency"
    (tmp_path / "dense.onnx").touch()
    found = shop._times({"it": tmp_path / "it.onnx"})["it"]
    assert opened == [{"backend": "openvino", "threads": 3}] * times
    assert found["latency_ms"] == 2.0 + (times + 1) / 2
    assert found["share"] == pytest.approx(0.1)


def test_no_time_is_no_candidate_and_more_time_goes_on(trained, data, tmp_path):
    quick = {**OPTIONS, "max_drop": 20.0, "minimize": "macs"}
    first = ps.compress(trained, data, out=tmp_path / "a", time_limit=1e-6, **quick)
    rows = first.metrics["budget"]["candidates"]
    assert [row["finished"] for row in rows] == [True, True, False]
    assert first.metrics["budget"]["chosen"] == "dense"
    more = ps.compress(trained, data, out=tmp_path / "a", time_limit=10.0, **quick)
    assert all(row["finished"] for row in more.metrics["budget"]["candidates"])
    assert more.stages[-1]["macs"] < first.stages[-1]["macs"]


def test_a_killed_search_repeats_no_candidate_and_ends_alike(found, trained, data, tmp_path):
    ps.save(trained, tmp_path / "dense.safetensors")
    (tmp_path / "small.py").write_text(MODEL)
    script = (
        "import sys, pintsize as ps\n"
        f"data = ps.data.load('digits', limit=300)\n"
        "ps.compress('small:make', data, model_weights='dense.safetensors', out='run', max_drop=20.0,"
        f" minimize='macs', **{OPTIONS!r})\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment)
    done = tmp_path / "run" / "stages" / "budget-probe-1-recover.json"
    deadline = time.monotonic() + 300
    while not done.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert done.exists()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "stages").iterdir()}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "stages").iterdir()}
    assert {name: after[name] for name in before} == before
    killed, whole = (
        read_tensors(folder / "quantized.safetensors")[0] for folder in (tmp_path / "run", found.folder)
    )
    assert all(torch.equal(killed[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize(
    ("section", "match"),
    [
        ({}, "exactly one of max_drop, max_latency, max_bytes, max_macs is the budget, none is given"),
        ({"max_drop": 1, "max_bytes": 9}, "max_drop and max_bytes are given"),
        ({"max_bytes": 9, "minimize": "macs"}, "max_bytes limits bytes, and minimize is macs"),
        ({"max_drop": -1}, "greater than or equal to 0"),
        ({"max_drop": 1, "minimize": "time"}, "'latency', 'bytes' or 'macs'"),
        ({"max_drp": 1}, "did you mean max_drop"),
        ({"max_drop": 1, "time_limit": 0}, "greater than 0"),
    ],
)
def test_impossible_budgets_are_refused_by_name(section, match):
    with pytest.raises(InputError, match=match):
        Recipe.parse({"budget": section})


def test_a_budget_and_an_amount_are_two_ways():
    with pytest.raises(InputError, match="prune and budget are two ways"):
        Recipe.parse({"budget": {"max_drop": 1}, "prune": {"ratio": 0.5}})
    recipe = Recipe.parse({"budget": {"max_bytes": 1000}, "recover": {"epochs": 1}})
    assert recipe.budget is not None
    assert (recipe.budget.minimize, recipe.budget.limit) == ("bytes", 1000)
    assert Recipe.parse(recipe.model_dump()) == recipe


def test_residual_blocks_may_go_unless_that_is_forbidden(data, tmp_path):
    options = {**OPTIONS, "epochs": 1, "recover_epochs": 0, "recipe": {"quantize": None}}
    names = {"layer1.0", "layer1.1", "layer2.1", "layer3.1"}
    for drop_blocks, limit, gone in ((True, 100_000, names), (False, 250_000, set())):
        found = ps.compress(
            "resnet-demo", data, out=tmp_path / str(drop_blocks), drop_blocks=drop_blocks, max_macs=limit, **options
        )  # fmt: skip
        budget = found.metrics["budget"]
        assert (budget["met"], budget["chosen"]) == (True, "full-1")
        (row,) = (row for row in budget["candidates"] if row["name"] == "full-1")
        assert set(row["blocks"]) == gone
        net = ps.load(found.folder / "budget" / "full-1.safetensors")
        left = {name for name, _ in net.named_modules()}
        assert not any(f"{block}.conv1" in left for block in gone)
        assert names - gone <= left
        cost = ps.profile(net, torch.zeros(1, *data.image_shape))
        assert cost.macs == row["macs"] < budget["candidates"][0]["macs"] / 2


def test_the_error_of_a_drop_comes_from_the_images_that_changed():
    right = torch.tensor([True, True, False, False] * 100)
    metric = Classification().judged()
    assert metric.drop(right, right) == (0.0, 0.0)
    changed = right.clone()
    changed[:2] = torch.tensor([False, False])
    error = 100 * (2 / 400 - (2 / 400) ** 2) ** 0.5 / 400**0.5
    assert metric.drop(right, changed) == pytest.approx((100 * 2 / 400, error))


def test_the_drop_and_its_error_have_to_be_within_the_budget(trained, data, tmp_path):
    options = {**OPTIONS, "max_drop": 20.0, "minimize": "macs"}
    strict = ps.compress(trained, data, out=tmp_path / "a", margin=1000.0, **options)
    for row in strict.metrics["budget"]["candidates"]:
        assert row["meets"] == (row["drop"] + 1000 * row["drop_error"] <= 20)
    assert not strict.metrics["budget"]["candidates"][-1]["meets"]
    assert strict.metrics["budget"]["candidates"][-1]["drop_error"] > 0


def test_a_network_that_lost_blocks_alone_is_the_one_that_is_deployed(data, tmp_path, monkeypatch):
    monkeypatch.setattr("pintsize.search.budget.levels_of", lambda counts: [0])  # no channel goes
    options = {**OPTIONS, "epochs": 1, "recover_epochs": 0, "recipe": {"quantize": None}}
    dense = ps.models.create("resnet-demo", in_channels=1, num_classes=10, stem="small")
    whole = ps.profile(dense, torch.zeros(1, *data.image_shape)).macs
    found = ps.compress("resnet-demo", data, out=tmp_path / "a", max_macs=int(0.99 * whole), **options)
    row = next(row for row in found.metrics["budget"]["candidates"] if row["name"] == "full-1")
    assert row["blocks"] == ["layer3.1"]
    assert not any(row["removed"].values())
    assert found.metrics["budget"]["chosen"] == "full-1"
    assert found.stages[-1]["macs"] == row["macs"] < whole
    assert [stage["name"] for stage in found.stages] == ["dense fp32", "pruned fp32"]


def stub(path, rows, **options):
    """A search that stands at some point: costs of its path, rows of what was tried."""
    finder = BudgetSearch.__new__(BudgetSearch)
    recipe = Recipe.parse({"budget": {"max_drop": 0.5, **options}, "recover": {"epochs": 10}})
    finder.stages, finder.options = SimpleNamespace(recipe=recipe), recipe.budget
    finder._earned, finder._least = 1.0, math.inf
    finder.path = [Allocation({"g": k}, {}, cost=cost) for k, cost in enumerate(path)]
    finder.rows, finder._allocations, finder._left = [], {}, 1.0
    for name, cost, epochs, drop in rows:
        row = {
            "name": name,
            "predicted": cost,
            "epochs": epochs,
            "drop": drop,
            "drop_error": 0.1,
            "finished": True,
        }
        finder.rows.append({**row, "meets": finder._excess(row) <= 0})
        finder._allocations[name] = next((one for one in finder.path if one.cost == cost), finder.path[0])
    return finder


def test_only_networks_between_what_holds_and_what_breaks_are_tried():
    path = [1.0, 0.7, 0.5, 0.4, 0.3, 0.1]
    whole = ("dense", 1.0, 0, 0.0)
    assert stub(path, [whole])._middle(1.0).cost == 0.3  # the square root of 0.1
    broken = ("probe-1", 0.3, 2, 5.0)
    assert stub(path, [whole, broken])._middle(1.0).cost == 0.5
    held = ("full-1", 0.4, 10, 0.2)
    assert stub(path, [whole, broken, held])._middle(0.4) is None
    assert stub([1.0, 0.0], [whole])._middle(1.0).cost == 0.0  # predicted to take no time at all


def test_integers_that_lose_too_much_do_not_forbid_networks_that_recover():
    rows = [("dense", 1.0, 0, 0.0), ("quantized", 0.4, 0, 0.45)]
    finder = stub([1.0, 0.4, 0.2, 0.05], rows)
    assert not finder.rows[1]["meets"]
    assert finder._failed_below(1.0) == -math.inf
    assert finder._middle(1.0).cost == 0.2


def test_a_probe_is_hopeful_until_its_full_recovery_tells():
    rows = [("dense", 1.0, 0, 0.0), ("probe-1", 0.4, 2, 1.2), ("probe-2", 0.2, 2, 3.0)]
    assert stub([1.0, 0.4, 0.2], rows)._hopeful() == [0.4]
    assert stub([1.0, 0.4, 0.2], rows)._failed_below(1.0) == 0.2
    told = stub([1.0, 0.4, 0.2], [*rows, ("full-1", 0.4, 10, 2.0)])
    assert told._hopeful() == []
    assert told._failed_below(1.0) == 0.4


def under_a_limit(path, actual, *, speeds=(1.0,), later=1.0, confirmations=1, **limit):
    """A search for a limit whose files cost what `actual` says, on a machine whose speed changes; costs it timed.

    Networks that are trained cost `later` times as much when they are timed again.
    """
    finder = stub(path, [], max_drop=None, confirmations=confirmations, **limit)
    speed, timed = itertools.cycle(speeds), []

    def row(one, epochs):
        now = next(speed)
        return {"name": "", "latency_ms": now * actual(one.cost), "relative_latency": actual(one.cost),
                "reference": "dense", "share": actual(one.cost) / actual(path[0]), "predicted": one.cost, "epochs": epochs,
                "drop": 1.0, "drop_error": 0.0, "val_accuracy": 90.0 + one.cost, "bytes": actual(one.cost), "macs": 1,
                "cut_error": 0.0, "seconds": 1.0 * epochs, "history": []}  # fmt: skip

    def cost(_, one):
        timed.append(one.cost)
        return row(one, 0)

    finder.workshop = SimpleNamespace(
        make=lambda name, one, epochs: {
            **row(one, epochs),
            "name": name,
            "share": (later if epochs else 1.0) * row(one, 0)["share"],
        },
        cost=cost,
    )
    finder.stages.progress, finder.clock = False, Clock(None)
    finder.stages.results = {"train": {}}
    finder._try("dense", finder.path[0], 0)
    finder._most_accurate(finder.options.limit)
    return finder, timed


def test_a_limit_of_latency_is_kept_on_a_machine_whose_speed_changes():
    """No network is faster for having been timed in a minute in which everything takes a tenth."""
    finder, _ = under_a_limit([1.0, 0.8, 0.45, 0.2], float, speeds=(1.0, 0.1, 3.0), max_latency=0.5)
    assert [(each["name"], each["predicted"]) for each in finder.rows] == [("dense", 1.0), ("full-1", 0.45)]
    assert finder.rows[1]["meets"]
    assert finder.rows[1]["judged_ms"] == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("actual", "limit", "kept"),
    [
        (lambda c: 0.5 + 0.5 * c, {"max_latency": 0.6}, 0.16),  # each call takes something by itself
        (lambda c: c * c, {"max_latency": 0.25}, 0.49),
        (lambda c: c if c > 0.5 else c / 10, {"max_latency": 0.45}, 0.5),  # a step
        (lambda c: 50_000 + 50_000 * c, {"max_bytes": 60_000}, 0.2),
    ],
)
def test_the_dearest_network_within_a_limit_is_fitted_and_few_are_timed(actual, limit, kept):
    finder, timed = under_a_limit([round(1 - 0.01 * k, 2) for k in range(99)], actual, **limit)
    assert [each["name"] for each in finder.rows] == ["dense", "full-1"]
    assert finder.rows[1]["predicted"] == kept
    assert finder.rows[1]["meets"]
    assert len(timed) <= 9


def before_a_block(finer, *, left=math.inf):
    """A search whose path takes a block between 0.9 and 0.5; `finer`: costs and damage of what may go in its place."""
    finder = stub([1.0, 0.9], [("dense", 1.0, 0, 0.0)], max_drop=None, max_macs=1)
    finder.rows[0]["macs"] = 1.0
    for taken, cost in ((2, 0.5), (3, 0.4)):  # a channel goes after the block
        finder.path.append(Allocation({"g": taken}, {}, frozenset({"b"}), cost=cost, cut_error=1.5 - cost))
    finder.clock = Clock(left / 60)
    finder.stages.results = {"train": {"history": [{"seconds": 1.0}]}}
    onward = [Allocation({"g": 1, "h": k}, {}, cost=c, cut_error=e) for k, (c, e) in enumerate(finer)]
    asked, measured = [], {}

    def path(left, start, *, blocks):
        asked.append((left, start, blocks))
        return [start, *(one for one in onward if one.cost < start.cost)]

    finder.space = SimpleNamespace(path=path)

    def cost(name, one):
        assert measured.setdefault(name, one.cost) == one.cost  # a name is one network's
        finder.clock.spent += 1.0
        return {"macs": one.cost}

    finder.workshop = SimpleNamespace(cost=cost)
    return finder, asked, measured


@pytest.mark.parametrize(
    ("finer", "limit", "kept"),
    [
        ([(0.6, 0.2), (0.5, 0.3)], 0.65, 0.6),  # channels do less harm than the block
        ([(0.6, 0.2), (0.52, 0.3)], 0.55, 0.52),
        ([(0.6, 0.2), (0.45, 0.3)], 0.48, 0.45),  # though the path took a channel after it
        ([(0.6, 2.0), (0.3, 3.0)], 0.65, 0.5),  # more
        ([(0.8, 0.1)], 0.65, 0.5),  # and are not enough
    ],
)
def test_where_a_whole_block_is_too_much_channels_go_instead(finer, limit, kept):
    finder, asked, measured = before_a_block(finer)
    assert finder._fitted("fit", limit, []).cost == kept
    assert asked == [(1.0, finder.path[1], False)]
    tried = [cost for name, cost in measured.items() if "finer" in name]
    assert set(tried) <= {cost for cost, error in finer if error < 1.1}  # nothing that loses more is measured


def test_no_time_is_taken_from_the_recovery_for_a_finer_fit():
    # ten epochs of 1.5 s, a ninth more for what varies: 16.7; three measurements of a second, and as many again
    for left, kept in ((23.0, 0.6), (22.0, 0.5), (14.0, 0.5)):
        assert before_a_block([(0.6, 0.2)], left=left)[0]._fitted("fit", 0.65, []).cost == kept
    for left, kept in ((6.0, 0.6), (5.0, 0.5)):  # nor from anything else where there is no recovery
        finder, _, _ = before_a_block([(0.6, 0.2)], left=left)
        finder.stages.recipe.recover.epochs = 0
        assert finder._fitted("fit", 0.65, []).cost == kept


def test_after_a_miss_what_lost_the_block_and_what_did_not_are_both_still_there():
    finder, _, _ = before_a_block([(0.6, 0.2), (0.48, 0.3), (0.46, 3.0)])
    finer, without = finder._fitted("fit-1", 0.55, []), finder.path[2]
    assert (finer.cost, without.cost) == (0.48, 0.5)
    assert finder._fitted("fit-2", 0.52, [finer]) == without
    assert finder._fitted("fit-3", 0.51, [without]) == finer
    assert finder._fitted("fit-4", 0.51, [without, finer]) == finder.path[3]
    assert finder._fitted("fit-5", 0.51, [finder.path[3]]) == finer  # the cheapest that missed ends nothing


def test_channels_go_where_a_block_is_more_than_the_limit_asks_for(data, tmp_path):
    options = {
        **OPTIONS,
        "epochs": 1,
        "recover_epochs": 0,
        "recipe": {"quantize": None},
        "out": tmp_path / "a",
    }
    dense = ps.models.create("resnet-demo", in_channels=1, num_classes=10, stem="small")
    limit = int(0.99 * ps.profile(dense, torch.zeros(1, *data.image_shape)).macs)
    first = ps.compress("resnet-demo", data, max_macs=limit, **options)
    row = next(row for row in first.metrics["budget"]["candidates"] if row["name"] == "full-1")
    assert row["blocks"] == []
    assert any(row["removed"].values())
    assert row["macs"] <= limit
    stages = tmp_path / "a" / "stages"
    made = {path.name: path.stat().st_mtime_ns for path in stages.glob("budget-*.json")}
    assert any("finer" in name for name in made)
    again = ps.compress("resnet-demo", data, max_macs=limit, **options)
    assert again.metrics["budget"]["candidates"] == first.metrics["budget"]["candidates"]
    assert {path.name: path.stat().st_mtime_ns for path in stages.glob("budget-*.json")} == made


def test_nothing_is_trained_where_even_the_cheapest_network_is_above_the_limit():
    finder, timed = under_a_limit([1.0, 0.8, 0.7], float, max_latency=0.5)
    assert ([each["name"] for each in finder.rows], timed) == (["dense"], [0.7])


def test_a_network_is_fitted_with_some_room_for_the_noise_of_its_second_timing():
    finder, _ = under_a_limit([1.0, 0.495, 0.45, 0.3], float, max_latency=0.5)
    assert finder.rows[1]["predicted"] == 0.45


def test_after_a_miss_what_missed_is_not_tried_again():
    finder, timed = under_a_limit(
        [1.0, 0.8, 0.47, 0.46, 0.2], float, later=1.1, confirmations=3, max_latency=0.5
    )
    found = [(each["name"], each["predicted"], each["meets"]) for each in finder.rows[1:]]
    assert found == [("full-1", 0.47, False), ("full-2", 0.2, True)]
    assert timed.count(0.47) == 1


def test_integers_that_fit_and_lose_much_do_not_end_the_search():
    finder = stub(
        [1.0, 0.6, 0.4], [("dense", 1.0, 0, 0.0), ("quantized", 0.3, 0, 40.0)], max_drop=None, max_macs=1
    )
    for row, meets in zip(finder.rows, (False, True), strict=True):
        row.update({"macs": row["predicted"], "meets": meets})
    tried = []
    finder.clock, finder._width = Clock(None), None
    finder.workshop = SimpleNamespace(cost=lambda _, one: {"macs": one.cost})
    finder._try = lambda name, one, epochs: tried.append(one.cost)
    finder._affordable = lambda epochs, **_: epochs
    finder._most_accurate(0.5)
    assert tried == [0.4]
    finder._width = 8
    finder._most_accurate(0.5)
    assert tried == [0.4]


def test_without_time_for_a_recovery_no_ruined_network_meets_a_limit():
    finder = stub([1.0, 0.4], [("dense", 1.0, 0, 0.0)], max_drop=None, max_bytes=1)
    finder.rows[0]["bytes"] = 1.0
    finder.workshop = SimpleNamespace(cost=lambda _, one: {"bytes": one.cost})
    finder.rows[0]["meets"] = False
    finder.clock = Clock(1.0)
    finder._affordable = lambda epochs, **_: 0
    finder._most_accurate(0.5)
    assert len(finder.rows) == 1


def test_a_latency_is_kept_end_to_end_and_other_threads_are_measured_anew(data, tmp_path):
    # in floating point alone: all is held against one time of one file
    options = {**OPTIONS, "epochs": 1, "recover_epochs": 1, "out": tmp_path / "a", "confirmations": 2,
               "recipe": {"quantize": None}}  # fmt: skip
    first = ps.compress("resnet-demo", data, max_latency=1e9, **options).metrics["budget"]
    times = [row["latency_ms"] for row in first["candidates"]]
    assert (len(times), first["met"]) == (1, True)
    limit = 0.6 * times[0]
    found = ps.compress("resnet-demo", data, max_latency=limit, **options)
    budget = found.metrics["budget"]
    assert [row["latency_ms"] for row in budget["candidates"][:1]] == times
    tried = budget["candidates"][1:]
    assert [row["name"] for row in tried] in (["full-1"], ["full-1", "full-2"])
    assert budget["met"] == any(row["judged_ms"] <= limit for row in tried)
    assert all(row["meets"] == (row["judged_ms"] <= limit) and row["judged_ms"] < times[0] for row in tried)
    other = ps.compress("resnet-demo", data, max_latency=1e9, **{**options, "threads": 2}).metrics["budget"]
    assert other["candidates"][0]["latency_ms"] != times[0]


def test_a_point_is_a_percent_or_a_hundredth_of_what_the_dense_network_has():
    assert point_of({"val_accuracy": 80.0}) == 1.0
    named = {"metric_name": "mIoU", "metric_unit": "%"}
    assert point_of({"val_metric": 40.0, **named}) == 1.0
    assert point_of({"val_metric": 30.0, "metric_name": "PSNR", "metric_unit": "dB"}) == pytest.approx(0.3)
    assert point_of({"val_metric": -0.5, "metric_name": "F", "metric_unit": ""}) == pytest.approx(0.005)
