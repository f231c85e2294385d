"""Every picture from the command line: from real files, into files, with a sentence that says what it shows."""

import json
import re

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import pintsize as ps
from pintsize import viz as pictures
from pintsize.cli.app import app
from pintsize.cli.output import compared, figures, judged
from pintsize.errors import CorruptFile, InputError
from pintsize.pruning.scans.scan import Curve, Sensitivity
from pintsize.viz.style import description


def draw(*args, folder=None):
    """The JSON object that `pintsize viz …` prints."""
    out = [] if "--out" in args else ["--out", str(folder / "figure.png")]
    result = CliRunner().invoke(app, ["viz", *map(str, args), *out, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    with Image.open(found["figure"]) as image:
        assert image.text["Description"] == found["description"]
        assert image.width > 400
    return found["description"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A network, the same pruned, clustered and quantized; a scan; two runs; a benchmark."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    data = ps.data.load("digits", limit=100)
    dense = ps.models.create("resnet-demo", in_channels=1).eval()
    ps.save(dense, folder / "dense.safetensors")
    pruned = ps.load(folder / "dense.safetensors")
    ps.prune(pruned, torch.randn(2, 1, 8, 8), ratio=0.5)
    ps.save(pruned, folder / "pruned.safetensors")
    ps.sparsify(pruned, density=0.25)
    ps.cluster(pruned, k=4)
    ps.save(pruned, folder / "clustered.safetensors")
    int4 = ps.load(folder / "dense.safetensors")
    ps.quantize(int4, weights=4, calibration=data.train)
    ps.save(int4, folder / "int4.safetensors")
    scan = ps.sensitivity(dense, data.val, level="filter", importance="l1", ratios=[0.5], progress=False)
    scan.save(folder / "scan.json")
    printed = {"scan": {"accuracy": 90.0, "ratios": [0.5]}, "retrained": {"conv1": [85.0]}}
    (folder / "retrained.json").write_text(json.dumps(printed))
    for name, accuracy, size, bits in (("a", 90.0, 3000, 8), ("b", 80.0, 1000, 4)):
        epochs = [
            {
                "epoch": 1,
                "train_loss": 1.0,
                "val_accuracy": 70.0,
                "kept": {"c": 0.5},
                "ends": True,
                "params": 0.6,
                "macs": 0.5,
            }
        ]
        stages = [("dense fp32", 91.0, 9000, 5.0), ("pruned", accuracy, size, 2.0)]
        content = {
            "format": 1,
            "recipe": {"quantize": {"weights": bits, "activations": 8}},
            "histories": {"train": [epochs[0] | {"kept": {}, "ends": False}], "attention": epochs},
            "stages": [
                {"name": n, "accuracy": a, "bytes": b, "latency": {"median_ms": ms}} for n, a, b, ms in stages
            ],
        }
        (folder / name).mkdir()
        (folder / name / "metrics.json").write_text(json.dumps(content))
    rows = [{"file": "x/net.onnx", "backend": "onnxruntime", "median_ms": 2.0, "p95_ms": 3.0, "bytes": 5000}]
    (folder / "bench.json").write_text(json.dumps({"files": rows}))
    return folder


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["display-kernels", "dense.safetensors", "--most", 8], "8 kernels of conv1"),
        (["display-scatter", "dense.safetensors", "clustered.safetensors"], r"dense \d+, clustered \d\d\."),
        (["display-activations", "dense.safetensors", "--data", "digits", "--image", 3], "13 activations"),
        (["kept-weights", "clustered.safetensors"], "25.0 % over all"),
        (["filter-norms", "resnet-demo", "--order", 2], "16 layers|15 convolutions"),
        (["channel-box", "dense.safetensors", "--layer", "conv1"], "Box plot of conv1, 16 of 16 channels"),
        (["weight-histogram", "int4.safetensors", "--layer", "conv1"], "Histogram of conv1"),
        (["weight-histogram", "clustered.safetensors", "--before", "pruned.safetensors"], "5 levels after"),
        (["quantization-error", "int4.safetensors"], r"SQNR of 16 layers, worst \S+ at \d+\.\d dB"),
        (["bits-per-layer", "int4.safetensors"], r"Bits per layer: 4\b.* in 16 layers"),
        (["channel-group-graph", "dense.safetensors", "--image-size", 8], r"\d+ groups over \d+ layers"),
        (
            ["filters-per-layer", "dense.safetensors", "pruned.safetensors"],
            r"\d+ dense, \d+ pruned, in 15 layers",
        ),
        (
            ["round-bars", "dense.safetensors", "pruned.safetensors", "--data", "digits"],
            "dense 175 k, pruned",
        ),
        (["sensitivity-curves", "scan.json", "--max-drop", 2], "most sensitive"),
        (["layer-importance", "scan.json", "--retrained", "retrained.json"], "largest fall"),
        (["training-curves", "a"], "over 2 epochs; best validation accuracy 70.00 %"),
        (["layer-epoch-heatmap", "a"], r"after 1 epochs 50 % are kept on average, least in c"),
        (["left-over-epochs", "a"], "after 1 epochs 60 % of parameters, 50 % of MACs"),
        (["stage-bars", "a"], "dense fp32 91.00, pruned 90.00"),
        (["accuracy-compression", "a", "b"], r"2 networks, 2 on the Pareto front: b 80.00 % at 1.00 kB"),
        (["accuracy-compression", "a", "--cost", "latency_ms"], "2 networks.*pruned 90.00 % at 2.00 ms"),
        (["bits-frontier", "a", "b"], "W8A8 up to 90.00 %, W4A8 up to 80.00 %"),
        (["runtime-bars", "bench.json"], "net.onnx 2.00 ms"),
        (["runtime-bars", "bench.json", "bench.json"], "1 x/net.onnx, onnxruntime 2.00 ms, 2 x/net.onnx"),
    ],
)
def test_each_picture(files, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(files)
    assert re.search(says, draw(*args, folder=tmp_path))


def test_every_figure_of_the_module_is_a_verb():
    others = {
        "description",
        "draw_boxes",
        "draw_masks",
        "draw_pictures",
        "pareto_front",
        "save",
        "sqnr_db",
        "to_png",
        "to_svg",
    }
    shown = CliRunner().invoke(app, ["viz", "--help"], env={"COLUMNS": "200"}).output
    assert all(name.replace("_", "-") in shown for name in set(pictures.__all__) - others)


def test_written_as_svg_and_pdf_beside_nothing_else(files, tmp_path):
    for suffix, start in ((".svg", b"<svg"), (".pdf", b"%PDF")):
        path = tmp_path / f"kept{suffix}"
        network = str(files / "clustered.safetensors")
        result = CliRunner().invoke(app, ["viz", "kept-weights", network, "--out", str(path)])
        assert result.exit_code == 0
        assert result.output.startswith(f"{path}: Weights kept per layer: 25.0 %")
        assert path.read_bytes().startswith(start)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("args", "error", "words"),
    [
        (["kept-weights", "none.safetensors"], InputError, "no such file"),
        (["kept-weights", "resnet-dem"], InputError, "resnet-demo"),
        (["kept-weights", "dense.safetensors", "--out", "x.bmp"], InputError, r"\.bmp"),
        (["channel-box", "dense.safetensors", "--layer", "conv9"], InputError, "conv9"),
        (["quantization-error", "dense.safetensors"], InputError, "quantize the network first"),
        (
            ["display-activations", "dense.safetensors", "--data", "digits", "--image", "-1"],
            InputError,
            "image=-1",
        ),
        (["layer-epoch-heatmap", "b0"], InputError, "no such run folder"),
        (["accuracy-compression", "a", "--cost", "byte"], InputError, "bytes"),
        (["runtime-bars", "scan.json"], CorruptFile, "not a benchmark"),
        (
            ["layer-importance", "scan.json", "--retrained", "bench.json"],
            CorruptFile,
            "not a scan with --epochs",
        ),
        (["runtime-bars", "none.json"], InputError, "no such file"),
    ],
)
def test_bad_input(files, monkeypatch, args, error, words):
    monkeypatch.chdir(files)
    with pytest.raises(error, match=words):
        CliRunner().invoke(app, ["viz", *args], catch_exceptions=False)


ERROR = {"metric_name": "MAE", "metric_unit": "cm"}
TASK = {"name": "regression", "metric": "MAE", "unit": "cm", "higher_is_better": False}


@pytest.fixture
def errors(files, tmp_path):
    """The runs and the scan, judged by an error: the less, the better."""
    for name in ("a", "b"):
        content = json.loads((files / name / "metrics.json").read_text())
        stages = [{"metric": 100 - stage.pop("accuracy"), **stage, **ERROR} for stage in content["stages"]]
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({**content, "task": TASK, "stages": stages}))
    scan = scan_of("MAE", "cm", 6.0, [9.0])
    scan.save(tmp_path / "scan.json")
    return tmp_path


def scan_of(metric, unit, whole, found):
    curve = Curve("conv1", ["conv1.weight"], 8, found, [1.0])
    return Sensitivity("filter", "l1", [0.5], whole, 1.0, 10, [curve], metric, unit, higher_is_better=False)


def test_pictures_of_errors_say_so(errors, tmp_path):
    runs = errors / "a", errors / "b"
    told = draw("accuracy-compression", *runs, folder=tmp_path)
    assert "2 on the Pareto front: b 20.00 cm at 1.00 kB; a 10.00 cm at 3.00 kB" in told
    assert "W8A8 down to 10.00 cm" in draw("bits-frontier", *runs, folder=tmp_path)
    assert "MAE (cm) dense fp32 9.00, pruned 10.00" in draw("stage-bars", runs[0], folder=tmp_path)
    scan = errors / "scan.json"
    assert "MAE rises from 6.0 cm to 9.0 cm" in draw(
        "sensitivity-curves", scan, "--max-drop", 2, folder=tmp_path
    )
    assert "largest rise is 3.0 cm, of conv1" in draw("layer-importance", scan, folder=tmp_path)


def test_runs_of_several_metrics_are_not_drawn_together(errors, files, tmp_path):
    with pytest.raises(InputError, match="compare networks that are judged by one metric"):
        draw("accuracy-compression", errors / "a", files / "b", folder=tmp_path)


def test_figures_of_networks_name_the_metric_of_the_data():
    images = torch.rand(8, 1, 4, 4)
    batches = [(images, images.mean((2, 3)))]
    data = ps.data.from_loaders(batches, batches, task={"name": "regression", "unit": "cm"})
    row = {"metric": 0.25, "metric_name": "MAE", "metric_unit": "cm", "higher_is_better": False}
    assert figures(0.25, data) == row
    assert judged(0.25, data)[1] == "MAE 0.25 cm on 8 validation images"
    assert compared(0.25, 0.5, data)[0]["drop"] == 0.25
    told = description(pictures.round_bars([{"name": "dense", **row, "params": 10}]))
    assert "MAE (cm) dense 0.25; parameters dense 10" in told
