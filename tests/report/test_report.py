"""The report of one run, from folders written here."""

import json
import re
import time
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pintsize import report
from pintsize.errors import CorruptFile, InputError, OperationError


def latency(ms):
    return {"median_ms": ms, "p95_ms": ms * 1.1, "backend": "onnxruntime", "threads": 2, "batch": 1}


def metrics(**changes):
    base = {
        "format": 1,
        "pintsize": "0.1.0",
        "machine": {"cpu": "AMD EPYC", "cores": 2, "memory_bytes": 16_000_000_000},
        "model": {"name": "resnet18", "options": {"num_classes": 10}},
        "data": {"name": "fashion-mnist"},
        "seed": 3,
        "recipe": {"prune": {"ratio": 0.5}},
        "stages": [
            {
                "name": "dense fp32",
                "accuracy": 91.8,
                "params": 11_172_810,
                "macs": 457_000_000,
                "bytes": 44_700_000,
                "file": "dense.onnx",
                "latency": latency(17.8),
            },
            {
                "name": "pruned int8",
                "accuracy": 91.5,
                "params": 3_341_000,
                "macs": 228_000_000,
                "bytes": 3_370_000,
                "file": "net.onnx",
                "latency": latency(2.9),
            },
        ],
        "verification": {"ok": True, "agreement": 99.94, "max_logit_error": 0.021},
        "histories": {"train": [{"epoch": 1, "train_loss": 1.0, "val_accuracy": 80.0}]},
        "layers": [
            {"name": "conv1", "type": "Conv2d", "shape": [32, 3, 3, 3], "params": 864, "bits": 8, "kept": 0.5}
        ],
        "budget": None,
    }
    return {**base, **changes}


@pytest.fixture
def run(tmp_path):
    def make(content=None, name="run", **changes):
        folder = tmp_path / name
        folder.mkdir()
        text = content if isinstance(content, str) else json.dumps(metrics(**changes))
        (folder / "metrics.json").write_text(text)
        return folder

    return make


class Page(HTMLParser):
    """Tags, texts and what the page refers to."""

    VOID = frozenset({"meta", "link", "br", "img", "path", "use", "rect", "line", "circle"})

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.words, self.outside = [], [], [], []
        self.feed(html)
        assert not self.open, f"not closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key in {"src", "href", "xlink:href", "action"} and not re.match(r"#|data:", value or ""):
                self.outside.append(value)

    handle_startendtag = lambda self, tag, attrs: self.tags.append((tag, dict(attrs)))  # noqa: E731

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"script", "style"}:
            self.words.append(data)


def page(folder):
    path = report.write(folder)
    assert path == folder.resolve() / "report.html"
    return Page(path.read_text())


def test_says_first_what_was_lost_and_gained(run):
    shown = page(run())
    assert "pruned int8 against dense fp32: 0.30 points lost, 13.3× smaller, 6.14× faster." in shown.text
    assert "70 % fewer parameters" in shown.text
    assert "Verified: file and model name the same class for 99.94 % of the images" in shown.text
    assert shown.text.index("points lost") < shown.text.index("Stages") < shown.text.index("Environment")
    assert not [attrs for tag, attrs in shown.tags if attrs.get("class") == "warning"]


LONGER = {"name": "dense fp32, trained on", "accuracy": 95.0, "bytes": 44_700_400, "latency": latency(17.8)}


def test_a_run_with_a_baseline_is_held_against_it(run):
    stages = metrics()["stages"]
    shown = page(run(stages=[stages[0], LONGER, stages[1]]))
    assert "pruned int8 against dense fp32, trained on: 3.50 points lost, 13.3× smaller" in shown.text
    assert "95.00 % → 91.50 %" in shown.text
    assert not [
        attrs for tag, attrs in shown.tags if attrs.get("class") == "warning"
    ]  # it is no step of the way


@pytest.mark.parametrize(("size", "accuracy"), [(44_700_400, 91.803), (44_699_000, 91.797)])
def test_what_is_unchanged_is_not_told_as_a_change(run, size, accuracy):
    dense = metrics()["stages"][0]
    again = {**dense, "name": "again", "bytes": size, "accuracy": accuracy, "macs": 456_900_000}
    shown = page(run(stages=[dense, again]))
    assert "again against dense fp32: no accuracy lost, file size unchanged, latency unchanged." in shown.text
    assert "under 1 % fewer MACs" in shown.text
    assert "larger than" not in shown.text


def test_is_self_contained_and_accessible(run):
    shown = page(run())
    assert shown.outside == []
    tags = [tag for tag, _ in shown.tags]
    assert tags.count("h1") == 1
    assert tags.count("table") == tags.count("caption") == 2
    images = [attrs for tag, attrs in shown.tags if tag == "svg"]
    assert len(images) == 2  # stages and training
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in images)
    ids = [attrs["id"] for _, attrs in shown.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    headings = [attrs for tag, attrs in shown.tags if tag == "th"]
    assert all(attrs.get("scope") in {"row", "col"} for attrs in headings)


def test_slower_int8_is_said_plainly(run):
    stages = metrics()["stages"]
    stages.insert(1, {"name": "pruned fp32", "latency": latency(2.0)})
    shown = page(run(stages=stages))
    assert (
        "pruned int8 is slower than pruned fp32 on this machine: 2.90 ms against 2.00 ms (1.45× slower)"
        in shown.text
    )


def test_gain_loss_and_failures(run):
    stages = metrics()["stages"]
    stages[1].update(accuracy=92.0, bytes=50_000_000, latency=latency(20.0))
    shown = page(
        run(
            stages=stages,
            verification={"ok": False, "agreement": 71.0},
            budget={"max_drop": 0.5, "met": False},
        )
    )
    assert "0.20 points gained, 1.12× larger, 1.12× slower" in shown.text
    assert "Verification failed" in shown.text
    assert "The budget was not met: max drop 0.5." in shown.text
    assert "pruned int8 is larger than dense fp32" in shown.text


def test_candidates_of_a_search_are_a_table(run):
    row = {"finished": True, "meets": True, "val_accuracy": 92.5, "drop": 0.3, "macs": 1000, "bytes": 2000,
           "latency_ms": 1.0, "epochs": 5}  # fmt: skip
    rows = [
        {**row, "name": "full-1"},  # of a run before blocks and errors were told
        {**row, "name": "full-2", "drop_error": 0.21, "blocks": ["layer1.1", "layer3.2"]},
        {"name": "full-3", "finished": False, "meets": False},
    ]
    shown = page(run(budget={"max_drop": 0.5, "met": True, "chosen": "full-2", "candidates": rows}))
    assert "full-2 (chosen)" in shown.text
    assert "0.30 ± 0.21" in shown.text
    assert "layer1.1, layer3.2" in shown.text
    assert "stopped by the time limit" in shown.text


def test_a_limit_is_shown_in_its_unit_and_latencies_as_they_were_judged(run):
    row = {"name": "full-1", "finished": True, "meets": True, "val_accuracy": 92.5, "drop": 0.3, "macs": 1000,
           "bytes": 2000, "latency_ms": 1.0, "judged_ms": 0.321, "epochs": 5}  # fmt: skip
    budget = {"minimize": "latency", "limit": 0.4567, "met": True, "chosen": "full-1", "candidates": [row]}
    shown = page(run(budget=budget))
    assert "limit 0.457 ms" in shown.text
    assert "0.321 ms" in shown.text
    assert "1.00 ms" not in shown.text
    shown = page(
        run(name="macs", budget={"minimize": "macs", "limit": 2_000_000, "met": False, "chosen": "dense"})
    )
    assert "limit 2.00 M" in shown.text


def test_missing_pieces_are_left_out(run):
    shown = page(run(json.dumps({"format": 1})))
    assert "No stage of this run has ended yet." in shown.text
    for heading in ("Stages", "Figures", "Layers", "Record", "Environment", "How to reproduce"):
        assert heading not in shown.text.replace("No stage of this run", "")
    one = page(
        run(name="one", content=json.dumps({"format": 1, "stages": [{"name": "dense fp32", "accuracy": 90}]}))
    )
    assert "One stage so far: dense fp32 at 90.00 % accuracy." in one.text


def test_other_files_of_the_folder_are_shown(run):
    folder = run()
    (folder / "recipe.yaml").write_text("prune: {ratio: 0.5}  # <half>")
    (folder / "record.json").write_text(
        json.dumps({"steps": [{"kind": "prune", "ratio": 0.5, "kept": {"a": [1, 2]}}]})
    )
    (folder / "log.txt").write_text("\n".join(f"line {n}" for n in range(10_000)))
    save_file(
        {"c.weight": torch.zeros(8, 1, 3, 3), "fc.weight": torch.zeros(2, 8)}, folder / "dense.safetensors"
    )
    save_file(
        {"c.weight": torch.zeros(5, 1, 3, 3), "fc.weight": torch.zeros(2, 5)}, folder / "pruned.safetensors"
    )
    shown = page(folder)
    assert "prune: {ratio: 0.5} # <half>" in shown.text
    assert "prune ratio=0.5" in shown.text
    assert "line 9999" in shown.text
    assert "line 9000" not in shown.text
    names = [attrs["aria-label"] for tag, attrs in shown.tags if tag == "svg"]
    assert "Filters per layer: 8 before, 5 after, in 1 layers." in names


def test_quantized_weights_are_drawn_from_the_file(run):
    folder = run()
    (folder / "record.json").write_text(
        json.dumps({"steps": [{"kind": "quantize", "weights": {"c": 4, "gone": 8}}]})
    )
    weight = torch.randn(2, 3, 3, 3)
    save_file(
        {"c.weight": weight, "c.weight_quantizer.scale": weight.abs().amax((1, 2, 3)) / 7},
        folder / "quantized.safetensors",
    )
    names = [attrs["aria-label"] for tag, attrs in page(folder).tags if tag == "svg"]
    assert any(name.startswith("Histogram of c: 54 weights") for name in names)
    assert any("SQNR of 1 layers, worst c" in name for name in names)


def test_figures_are_saved_and_foreign_ones_taken_in(run):
    folder = run()
    paths = report.save_figures(folder)
    assert [path.name for path in paths] == ["stages.png", "training.png"]
    paths[0].rename(folder / "figures" / "channel_box.png")
    sources = [attrs for tag, attrs in page(folder).tags if tag == "img"]
    assert [attrs["alt"] for attrs in sources] == ["channel box"]
    assert sources[0]["src"].startswith("data:image/png;base64,")


def test_attention_is_drawn_with_its_frontier(run):
    epochs = [
        {"epoch": n, "train_loss": 1.0, "val_accuracy": 80.0 - n, "params": 1 - n / 10, "macs": 1 - n / 20, "channels": 0.9,
         "kept": {"a": 1 - n / 10}, "ends": n != 2}
        for n in (1, 2, 3)
    ]  # fmt: skip
    folder = run(histories={"attention": epochs}, stages=[{"name": "dense fp32", "params": 1000}])
    names = [attrs["aria-label"] for tag, attrs in page(folder).tags if tag == "svg"]
    assert any(name.startswith("Channels kept") for name in names)
    (told,) = [name for name in names if "on the Pareto front" in name]
    assert told.startswith(
        "2 networks, 2 on the Pareto front: epoch 3 77.00 % at 700; epoch 1 79.00 % at 900"
    )
    assert (folder / "figures" / "frontier.png") in report.save_figures(folder)


def test_rounds_and_scans_are_drawn(run):
    rounds = [
        {
            "name": name,
            "val_accuracy": 90.0 - k,
            "accuracy": None,
            "params": 1000 - k,
            "macs": 9000,
            "filters": {"a": 8 - k},
        }
        for k, name in enumerate(("dense", "round 1"))
    ]
    folder = run(rounds=rounds, recipe={"rules": {"max_drop": 5}})
    curve = {"name": "a", "parameters": ["a.weight"], "size": 8, "accuracy": [80.0], "loss": [1.0]}
    scan = {
        "level": "filter",
        "importance": "l1",
        "images": 9,
        "accuracy": 90.0,
        "loss": 0.5,
        "ratios": [0.5],
    }
    file = folder / "sensitivity.json"
    file.write_text(json.dumps({"format": 1, "result": {**scan, "curves": [curve]}}))
    names = [attrs["aria-label"] for tag, attrs in page(folder).tags if tag == "svg"]
    for start in ("Rounds of pruning", "Filters per layer: 8 dense, 7 round 1", "Sensitivity to pruning"):
        assert [name.startswith(start) for name in names].count(True) == 1
    file.write_text(json.dumps({"format": 1, "result": None}))  # it goes on
    assert "Sensitivity" not in page(folder).text
    broken = {"format": 1, "rounds": [{"name": "dense", "val_accuracy": 1.0}]}
    (folder / "metrics.json").write_text(json.dumps(broken))
    with pytest.raises(CorruptFile, match=r"rounds\.0\.params"):
        report.write(folder)


def test_tensorboard_has_the_same_figures(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run()
    for _ in range(2):  # written again, they are there once
        paths = report.save_figures(folder)
    events = EventAccumulator(str(folder / "tensorboard" / "figures"))
    events.Reload()
    assert events.Tags()["images"] == ["stages", "training"]
    (shown,) = events.Images("stages")
    assert shown.encoded_image_string == paths[0].read_bytes()
    with Image.open(paths[0]) as written:
        assert (shown.width, shown.height) == written.size


def test_a_full_disk_is_one_line(run):
    import resource

    folder = run()
    largest = max(path.stat().st_size for path in report.save_figures(folder))  # the events hold them all
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, old[1]))
    try:
        with pytest.raises(
            OperationError, match=r"tensorboard/figures/events.*cannot be written \(File too"
        ) as found:
            report.save_figures(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert "\n" not in str(found.value)


def test_layers_sort_by_number(run):
    layers = [{"name": "a", "params": 20}, {"name": "b", "params": 3, "density": 0.25, "extra": "x"}]
    layers.append({"name": "a ReLU, which costs nothing", "params": 0, "macs": 0})
    shown = page(run(layers=layers))
    keys = [attrs["data-key"] for tag, attrs in shown.tags if tag in {"td", "th"} and "data-key" in attrs]
    assert keys == ["a", "20", "–", "–", "b", "3", "0.25", "x"]
    assert "25.0 %" in shown.text


def test_markup_in_names_is_escaped(run):
    evil = "<script>alert(1)</script>"
    shown = page(run(model={"name": evil}, layers=[{"name": evil}], stages=[{"name": evil, "params": 1}] * 2))
    assert [tag for tag, _ in shown.tags].count("script") == 1  # ours
    assert evil in shown.text


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        '{"format": 2}',
        '{"format": 1, "stages": [{}]}',
        '{"format": 1, "stages": 3}',
        '{"format": 1, "stages": [{"name": "a", "accuracy": "high"}]}',
        '{"format": 1, "layers": [3]}',
        "[" * 100_000,
    ],
)
def test_corrupt_metrics(run, content):
    with pytest.raises(CorruptFile, match=r"metrics\.json"):
        report.write(run(content))


def test_corrupt_record_and_model_file(run):
    folder = run()
    (folder / "record.json").write_text("{")
    with pytest.raises(CorruptFile, match=r"record\.json"):
        report.write(folder)
    (folder / "record.json").unlink()
    (folder / "dense.safetensors").write_bytes(b"torn")
    with pytest.raises(CorruptFile, match=r"dense\.safetensors"):
        report.write(folder)


def test_no_run(tmp_path):
    with pytest.raises(InputError, match="no such run folder"):
        report.write(tmp_path / "none")
    with pytest.raises(InputError, match=r"no metrics\.json"):
        report.write(tmp_path)


def test_old_report_survives_a_failed_write(run, monkeypatch):
    folder = run()
    path = report.write(folder)
    old = path.read_bytes()

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OperationError, match="No space left"):
        report.write(folder)
    assert path.read_bytes() == old


def test_long_run_is_quick_and_small(run):
    epochs = [
        {"epoch": e, "train_loss": 1 / (e + 1), "val_loss": 1.0, "train_accuracy": 90.0, "val_accuracy": 80.0}
        for e in range(100)
    ]
    layers = [{**metrics()["layers"][0], "name": f"layer{i}"} for i in range(30)]
    folder = run(histories={"train": epochs}, layers=layers)
    start = time.perf_counter()
    path = report.write(folder)
    assert time.perf_counter() - start < 10
    assert path.stat().st_size < 3_000_000
