"""The comparison of several runs."""

import json
import re
import xml.etree.ElementTree as ET

import pytest

from pintsize import report
from pintsize.errors import CorruptFile, InputError
from pintsize.report.compare import flatten, points


def stage(name, accuracy, size, ms):
    return {
        "name": name,
        "accuracy": accuracy,
        "bytes": size,
        "params": size // 4,
        "macs": size,
        "latency": {"median_ms": ms, "backend": "onnxruntime", "threads": 2, "batch": 1},
    }


@pytest.fixture
def make(tmp_path):
    def write(name, accuracy, size, ms, *, ratio=0.5, cpu="one"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        content = {
            "format": 1,
            "machine": {"cpu": cpu},
            "recipe": {"seed": 0, "prune": {"ratio": ratio}},
            "stages": [stage("dense fp32", 92.0, 4_000_000, 8.0), stage("pruned int8", accuracy, size, ms)],
        }
        (folder / "metrics.json").write_text(json.dumps(content))
        (folder / "recipe.yaml").write_text(f"prune: {{ratio: {ratio}}}  # <b>")
        return folder

    return write


@pytest.fixture
def runs(make):
    return [
        make("a", 91.5, 500_000, 3.0),
        make("b", 90.0, 100_000, 2.0, ratio=0.9),
        make("c", 89.0, 600_000, 4.0),
    ]


def test_table_names_best_and_differences(runs, tmp_path):
    text = report.compare(runs, tmp_path / "out.html").read_text()
    assert "most accurate is a: 91.50 %, 500 kB, 3.00 ms; smallest is b: 90.00 %, 100 kB, 2.00 ms" in text
    assert '<th scope="col">prune.ratio</th>' in text
    assert "seed</th>" not in text  # all the same
    assert re.search(r'data-key="2\.0">\s*2\.00', text)  # the drop of b
    assert "must not be compared" not in text


def test_the_drop_is_against_the_dense_network_trained_as_long(make, tmp_path):
    folders = [make("a", 91.5, 500_000, 3.0), make("b", 94.999, 500_000, 3.0)]
    for folder in folders:
        content = json.loads((folder / "metrics.json").read_text())
        content["stages"].insert(1, stage("dense fp32, trained on", 95.0, 4_000_000, 8.0))
        (folder / "metrics.json").write_text(json.dumps(content))
    text = report.compare(folders, tmp_path / "out.html").read_text()
    assert re.search(r'data-key="3\.5">\s*3\.50', text)
    assert re.search(r'data-key="0\.0">\s*0\.00', text)


def test_every_point_links_to_its_recipe(runs, tmp_path):
    text = report.compare(runs, tmp_path / "out.html").read_text()
    plots = [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]
    assert len(plots) == 3  # bytes, latency, MACs
    for plot in plots:
        assert plot.get("role") == "group"  # what holds links is no image
        links = list(plot.iter("a"))
        assert [a.get("href") for a in links] == ["#run-0", "#run-1", "#run-2"]
        assert links[1].get("aria-label") == "b: 90.00 %, 100 kB, 2.00 ms"
    assert text.count('<article id="run-') == 3
    assert "prune: {ratio: 0.9}  # &lt;b&gt;" in text
    assert "http" not in re.sub(r"http://www\.w3\.org/[\w/]+|http-equiv", "", text)


def test_the_brief_recipe_tells_what_is_unusual(runs, tmp_path):
    metrics = json.loads((runs[0] / "metrics.json").read_text())
    metrics["recipe"] |= {"train": {"epochs": 10, "lr": 0.3, "ema": None}}
    (runs[0] / "metrics.json").write_text(json.dumps(metrics))
    text = report.compare(runs, tmp_path / "out.html").read_text()
    brief = re.search(r'id="run-0" data-brief="([^"]*)"', text)[1].splitlines()
    assert brief == ["prune.ratio: 0.5", "train.epochs: 10", "train.lr: 0.3"]  # epochs: the others name none


def test_links_to_the_reports_that_exist(runs, tmp_path):
    report.write(runs[0])
    text = report.compare(runs, tmp_path / "sub" / "out.html").read_text()
    assert re.findall(r'href="([^"#]*report\.html)"', text) == ["../a/report.html"]


def test_latencies_of_different_machines_are_not_compared(make, tmp_path):
    text = report.compare(
        [make("a", 91, 1000, 1), make("b", 91, 1000, 2, cpu="two")], tmp_path / "o.html"
    ).read_text()
    assert "must not be compared" in text


def test_equal_folder_names_are_told_apart(make, tmp_path):
    text = report.compare(
        [make("x/run", 91, 1000, 1), make("y/run", 90, 900, 2)], tmp_path / "o.html"
    ).read_text()
    assert ">x/run</a>" in text
    assert ">y/run</a>" in text


def test_runs_without_measurements(make, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "metrics.json").write_text('{"format": 1}')
    text = report.compare([make("a", 91, 1000, 1), empty], tmp_path / "o.html").read_text()
    assert "<svg" not in text
    assert ">empty</a>" in text


def test_too_few_or_broken(runs, tmp_path):
    with pytest.raises(InputError):
        report.compare(runs[:1], tmp_path / "o.html")
    with pytest.raises(InputError, match="2 were given, 1"):
        report.compare([runs[0], runs[0]], tmp_path / "o.html")
    (runs[1] / "metrics.json").write_text("{")
    with pytest.raises(CorruptFile):
        report.compare(runs, tmp_path / "o.html")
    assert not (tmp_path / "o.html").exists()


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": [1]}) == {"a.b": 1, "a.c.d": 2, "e": [1]}


MAE = {"name": "regression", "metric": "MAE", "unit": "cm", "higher_is_better": False}


def judged_by(folder, task):
    """The run of another task, whose figures are called otherwise in its file."""
    content = json.loads((folder / "metrics.json").read_text())
    content["task"] = task
    for row in content["stages"]:
        row["metric"] = 100 - row.pop("accuracy")
        row |= {"metric_name": task["metric"], "metric_unit": task["unit"]}
    (folder / "metrics.json").write_text(json.dumps(content))


def test_of_errors_the_least_is_best(runs, tmp_path):
    for folder in runs:
        judged_by(folder, MAE)
    text = report.compare(runs, tmp_path / "out.html").read_text()
    assert "3 runs; best by MAE is a: 8.50 cm, 500 kB, 3.00 ms; smallest is b" in text
    assert '<th scope="col" class="number">MAE (cm)</th><th scope="col" class="number">drop (cm)</th>' in text
    assert "2 on the Pareto front: b 10.00 cm at 100 kB; a 8.50 cm" in text
    assert re.search(r'data-key="2\.0">\s*2\.00', text)  # the drop of b
    assert "accuracy" not in text


def test_runs_of_several_metrics_have_columns_plots_and_best_ones_of_their_own(make, tmp_path):
    runs = [make(name, 91.5 - n, 500_000 - 9 * n, 3.0) for n, name in enumerate("abcd")]
    for folder in runs[2:]:
        judged_by(folder, MAE)
    text = report.compare(runs, tmp_path / "out.html").read_text()
    assert "most accurate is a: 91.50 %, 500 kB, 3.00 ms; best by MAE is c: 10.50 cm" in text
    headings = re.findall(r'<th scope="col" class="number">([^<]*)</th>', text)
    assert headings[:4] == ["accuracy (%)", "drop (points)", "MAE (cm)", "drop (cm)"]
    row = re.search(r'data-key="d">.*?</tr>', text, re.DOTALL)[0]
    assert re.findall(r">(–|\d+\.\d\d)</td>", row)[:4] == ["–", "–", "11.50", "3.50"]
    assert text.count('<figure class="plot">') == 6
    assert "2 networks, 1 on the Pareto front: d 11.50 cm" not in text  # c is better, and larger
    assert "2 networks, 2 on the Pareto front: d 11.50 cm" in text
    assert "2 networks, 2 on the Pareto front: b 90.50 %" in text
    assert "What accuracy and MAE cost<" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_points_say_what_they_are(runs):
    judged_by(runs[0], MAE)
    first, second = points(runs[:2])
    assert first["accuracy"] == pytest.approx(8.5)
    assert (first["metric_name"], first["metric_unit"], first["higher_is_better"]) == ("MAE", "cm", False)
    assert "metric_name" not in second
