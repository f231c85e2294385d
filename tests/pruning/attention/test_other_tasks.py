"""Attention pruning of a network that is judged by an error in centimetres: the less, the better."""

import copy
import csv

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import pintsize as ps
from pintsize.pruning import prune_by_attention
from pintsize.pruning.attention.pictures import frontier
from pintsize.viz.style import description

OPTIONS = {
    "attention_lr": 0.05, "lr": 1e-3, "batch_size": 16, "attention_epochs": 2, "recovery_epochs": 1,
    "late_recovery_epochs": 1, "augment": False, "precision": "fp32", "progress": False,
}  # fmt: skip


def made(targets_of):
    torch.manual_seed(0)
    images = torch.rand(48, 1, 8, 8)
    with torch.no_grad():
        targets = targets_of(images)
    return ps.data.from_loaders(
        TensorDataset(images, targets), TensorDataset(images[:16], targets[:16]), task={"name": "regression", "unit": "cm"}
    )  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return made(lambda images: 100 * images.mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 1)
    )  # fmt: skip


def test_table_text_and_pictures_name_the_metric(data, net, tmp_path):
    found = prune_by_attention(copy.deepcopy(net), data, target=0.8, csv=tmp_path / "a.csv", **OPTIONS)
    assert f"validation MAE {found.baseline:.2f} cm → {found.accuracy:.2f} cm" in str(found)
    found.to_csv(tmp_path / "b.csv")
    for file in ("a.csv", "b.csv"):
        rows = list(csv.DictReader((tmp_path / file).read_text().splitlines()))
        assert [float(row["val_metric"]) for row in rows] == [row["val_metric"] for row in found.history]
        assert {(row["metric_name"], row["metric_unit"]) for row in rows} == {("MAE", "cm")}
        assert float(rows[0]["threshold_metric"]) == pytest.approx(found.baseline)
        assert not any("accuracy" in name for name in rows[0])
    pictures = found.figures()
    assert pictures["frontier"].axes[0].get_ylabel() == "MAE (cm)"
    assert pictures["frontier"].axes[0].get_title(loc="left") == "Validation MAE against parameters left"
    assert pictures["training"].axes[1].get_ylabel() == "MAE (cm)"
    assert found._repr_html_().count("<svg") == 2


def test_the_reason_is_in_its_unit(net):
    perfect = made(copy.deepcopy(net).eval())
    found = prune_by_attention(copy.deepcopy(net), perfect, max_drop=1e-9, **OPTIONS)
    assert found.baseline < 1e-5
    assert "the drop is above 1e-09 cm" in found.reason


def test_the_front_is_of_the_least_errors():
    named = {"metric_name": "MAE", "metric_unit": "cm", "higher_is_better": False, "ends": True}
    rows = [(0.9, 3.0), (0.5, 5.0), (0.4, 4.0)]
    history = [
        {"epoch": n, "params": share, "val_metric": error, **named}
        for n, (share, error) in enumerate(rows, 1)
    ]
    assert "2 on the Pareto front: epoch 3 4.00 cm at 400; epoch 1 3.00 cm" in description(
        frontier(history, 1000)
    )
