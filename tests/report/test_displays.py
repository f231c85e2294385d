"""What a notebook shows: markup that is whole, with the numbers in it."""

import xml.etree.ElementTree as ET

import pytest
import torch

import pintsize as ps
from pintsize.pruning.weights.sparsity import LayerSparsity
from pintsize.report import ReportFile
from pintsize.storage.record import record
from pintsize.tables import Table, shortened
from pintsize.training import History


def parsed(thing):
    """The markup of a display, as XML, and its text."""
    root = ET.fromstring(f"<main>{thing._repr_html_()}</main>")
    return root, " ".join("".join(root.itertext()).split())


@pytest.fixture(scope="module")
def pruned():
    torch.manual_seed(0)
    model = ps.models.create("resnet-demo", in_channels=1)
    return model, ps.prune(model, torch.randn(2, 1, 8, 8), ratio=0.5)


def test_plan(pruned):
    root, text = parsed(pruned[1])
    rows = root.findall(".//tbody/tr")
    assert len(rows) == sum(len(dims) for dims in pruned[1].removed.values())
    name, dims = next(iter(pruned[1].removed.items()))
    dim, indices = next(iter(dims.items()))
    assert [cell.text for cell in rows[0]][:3] == [name, str(dim), str(len(indices))]
    assert "kept)" in text


def test_records_and_networks(pruned):
    model = pruned[0]
    assert parsed(record(model)[0])[1].startswith("prune removed: ")
    assert "resnet-demo · prune · MACs of one 1×32×32 image" in parsed(ps.show(model))[1]
    assert "MACs" in parsed(ps.profile(model, torch.zeros(1, 1, 8, 8)))[1]


def test_sparsity(pruned):
    model = ps.models.create("resnet-demo", in_channels=1)
    result = ps.sparsify(model, density=0.25)
    root, _ = parsed(result)
    assert root.findall(".//tfoot//th")[3].text == "25.00%"
    assert len(root.findall(".//tbody/tr")) == len(result.layers)
    assert isinstance(result.layers[0], LayerSparsity)


def test_scan():
    data = ps.data.load("digits", limit=60)
    model = ps.models.create("resnet-demo", in_channels=1)
    scan = ps.sensitivity(model, data.val, level="filter", ratios=[0.5], progress=False)
    root, text = parsed(scan)
    assert "Sensitivity to pruning" in root.find(".//{*}svg").get("aria-label")
    assert "% whole" in text


def test_history():
    history = History([{"epoch": 1, "train_loss": 1.0, "val_accuracy": 50.0}])
    assert "best validation accuracy 50.00 %" in parsed(history)[0].find(".//{*}svg").get("aria-label")
    assert parsed(History())[1] == "no epochs"


def test_two_figures_of_a_page_share_no_ids():
    figure = ps.viz.stage_bars([{"name": "a", "params": 1}])
    ids = [{e.get("id") for e in parsed(figure)[0].iter()} - {None} for _ in range(2)]
    assert not ids[0] & ids[1]


def test_report(tmp_path):
    path = ReportFile(tmp_path / "report.html")
    assert str(path) in parsed(path)[1]  # not written yet
    path.write_text('<p title="x">a & b</p>')
    frame = parsed(path)[0].find("iframe")
    assert frame.get("srcdoc") == '<p title="x">a & b</p>'
    assert frame.get("sandbox") == "allow-scripts"


def test_tables_fit_and_are_escaped():
    table = Table(
        ("name", "kind", "n"),
        [("a" * 50, "<b>", "123456")],
        ("all", "", "1"),
        words=2,
        heat=[(None, None, 1.0)],
    )
    assert "<b>" in str(table)
    assert "<b>" not in table._repr_html_()
    assert "rgb(213 94 0 / 0.45)" in table._repr_html_()
    assert sum(table.widths(40)) + 6 <= 40
    assert table.widths(40)[2] == 6  # numbers are never cut
    assert str(table).splitlines()[-1].startswith("all")
    assert shortened("layer1.0.conv1", 9) == "laye…onv1"


class Displayed:
    """A result: rows and last row of the table that a notebook shows of it, and the text that is printed."""

    def __init__(self, result):
        root, self.text = parsed(result)
        self.rows = [["".join(cell.itertext()) for cell in row] for row in root.findall(".//tbody/tr")]
        self.total = [cell.text for cell in root.findall(".//tfoot//th")]
        self.printed = str(result)


@pytest.fixture
def digits():
    torch.manual_seed(0)
    return ps.models.create("resnet-demo", in_channels=1), ps.data.load("digits", limit=60)


def test_networks_of_ours_show_their_layers(digits):
    assert "resnet-demo · MACs of one 1×32×32 image" in parsed(digits[0])[1]


def test_quantization(digits):
    model, data = digits
    shown = Displayed(ps.quantize(model, calibration=data.train, weights=4, edges=8, progress=False))
    assert shown.rows[1] == ["layer1.0.conv1", "4", "8"]
    assert "folded" in shown.text
    assert shown.printed.splitlines()[3].split() == ["layer1.0.conv1", "4", "8"]


def test_clusters(digits):
    shown = Displayed(ps.cluster(digits[0], k=4))
    assert shown.rows[0][:3] == ["conv1", "4", "1"]
    assert shown.total == [f"{len(shown.rows)} layers", None, None, None, shown.total[4]]
    assert "squared error" in shown.printed


def test_files_and_their_verification(digits, tmp_path):
    model, data = digits
    info = ps.export(model, tmp_path / "net.onnx", example=torch.zeros(1, 1, 8, 8))
    assert ["input", "any×1×8×8"] in Displayed(info).rows
    assert str(tmp_path / "net.onnx") in str(info)
    found = ps.verify(tmp_path / "net.onnx", model, data.val, threads=1, repeats=1)
    shown = Displayed(found)
    assert shown.rows[0] == ["same top class", "100.00 % of 60 images"]
    assert "agreement 100.00 %" in shown.printed
    assert "median" in parsed(found.latency)[1]


def test_bits_and_fixed_point(digits):
    model, data = digits
    plan = ps.choose_bits(
        model, calibration=data.train, widths=[4, 8], bytes=0.2, calibration_images=8, progress=False
    )
    assert {row[1] for row in Displayed(plan).rows} <= {"4", "8"}
    assert " of " in Displayed(plan).total[3]
    shown = Displayed(ps.fixed_point(model, calibration=data.train, calibration_images=8, progress=False))
    assert ["conv1.weight", "parameter", "8"] in [row[:3] for row in shown.rows]


def test_integers(digits):
    from pintsize.quant import compare_with_integers

    model, data = digits
    ps.quantize(model, calibration=data.train, progress=False)
    shown = Displayed(compare_with_integers(model, data.val))
    assert shown.rows[0][0] == "same top class"
    assert "60 images" in shown.text


def test_layer_attention(digits):
    from pintsize.pruning.attention.layerwise import LayerAttentionResult

    shown = Displayed(LayerAttentionResult(History(), {"conv1": 0.5}, {"conv1": 0.25}, 0.75))
    assert shown.rows == [["conv1", "0.500", "25.0%"]]
    assert shown.total == ["1 layers", None, "25.0%"]
