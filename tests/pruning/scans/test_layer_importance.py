"""What each layer's smallest filters are worth: without retraining, and with."""

import sys

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import InputError
from pintsize.pruning.scans.importance import layer_importance


@pytest.fixture(scope="module")
def digits():
    return ps.data.load("digits", limit=200)


@pytest.fixture(scope="module")
def trained(digits):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
    )
    ps.train(model, digits, epochs=5, lr=0.02, batch_size=20, augment=False, progress=False)
    return model


OPTIONS = {"ratios": (0.25, 0.75), "lr": 0.02, "batch_size": 20, "augment": False, "progress": False}


def test_retraining_brings_accuracy_back_and_a_second_call_reads_it(trained, digits, tmp_path, monkeypatch):
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    found = layer_importance(trained, digits, epochs=2, folder=tmp_path, **OPTIONS)
    assert list(found.retrained) == ["0", "2"]
    assert found.without.curves[0].accuracy[1] < found.without.accuracy
    assert found.retrained["0"][1] > found.without.curves[0].accuracy[1]
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())
    assert "after 2 epochs" in found.table()
    assert len(found.plot().axes) >= 2
    monkeypatch.setattr(
        sys.modules["pintsize.pruning.scans.importance"], "train", None
    )  # nothing is trained again
    assert layer_importance(trained, digits, epochs=2, folder=tmp_path, **OPTIONS) == found


def test_without_retraining_it_is_the_scan_of_the_channel_groups(trained, digits):
    found = layer_importance(trained, digits, ratios=(0.5,), progress=False)
    assert found.retrained == {}
    assert found.without == ps.sensitivity(
        trained, digits, level="group", importance="l1", ratios=(0.5,), progress=False
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"epochs": -1}, "epochs"),
        ({"ratios": (0.5, 0.2)}, "rise"),
        ({"importance": "l7"}, "l7"),
        ({"nonsense": 1}, "nonsense"),
        ({"ignore": "nowhere"}, "nowhere"),
    ],
)
def test_bad_options(trained, digits, options, match):
    with pytest.raises(InputError, match=match):
        layer_importance(trained, digits, **options)


def test_of_another_task_tables_and_pictures_name_its_metric():
    torch.manual_seed(0)
    images = torch.rand(16, 1, 6, 6)
    batches = [(images, images.mean((2, 3)))]
    data = ps.data.from_loaders(batches, batches, task={"name": "regression", "unit": "cm"})
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 1))
    found = layer_importance(model, data, ratios=(0.5,), epochs=1, lr=0.001, progress=False)
    assert found.table().startswith(f"MAE {found.without.accuracy:.4g} cm whole")
    assert [axes.get_ylabel() for axes in found.plot().axes] == ["MAE (cm)", "MAE (cm)"]
    (line,) = [
        line for line in found.without.plot(max_drop=0.5).axes[0].lines if line.get_linestyle() == "--"
    ]
    assert line.get_ydata()[0] == pytest.approx(found.without.accuracy + 0.5)
