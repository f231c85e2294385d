"""What stands behind a network's last layers, and what its file tells of images."""

import pytest
import torch
from torch import nn

import pintsize as ps
from onnx_graphs import detector, distributed


def test_the_sum_over_places_stays_in_float_and_that_is_told(tmp_path):
    net = ps.models.from_onnx(distributed(tmp_path / "net.onnx"))
    assert net.decoders == ("dfl.conv",)
    assert net.heads == ("sides",)
    found = ps.quantize(net, calibration=[torch.rand(4, 3, 16, 16)])
    reasons = {layer.name: layer.reason for layer in found.in_float}
    assert "places of a softmax" in reasons["dfl.conv"]
    assert set(reasons) == {"dfl.conv", "sides"}
    assert torch.equal(net.dfl.conv.weight.flatten(), torch.arange(8.0))
    assert net.stem.weight.unique().numel() < 8 * 256  # on a grid of each channel
    kept = net.sides.out_channels
    assert kept == 32


def test_places_are_not_pruned(tmp_path):
    net = ps.models.from_onnx(distributed(tmp_path / "net.onnx"))
    ps.prune(net, torch.rand(2, 3, 16, 16), ratio=0.5)
    assert net.stem.out_channels == 4
    assert net.sides.out_channels == 32
    assert torch.equal(net.dfl.conv.weight.flatten(), torch.arange(8.0))


@pytest.mark.parametrize(
    ("size", "metadata", "told"),
    [
        ((24, 32), {}, (24, 32)),
        (("h", "w"), {"imgsz": "[320, 640]"}, (320, 640)),
        ((24, 32), {"imgsz": "[320, 640]"}, (24, 32)),
        (("h", "w"), {}, None),
        (("h", "w"), {"imgsz": "[320]"}, None),
        (("h", "w"), {"imgsz": "no list"}, None),
        (("h", "w"), {"imgsz": "[0, -4]"}, None),
        (("h", "w"), {"imgsz": '{"a": 1}'}, None),
    ],
)
def test_the_size_comes_from_the_input_or_from_ultralytics_note(size, metadata, told, tmp_path):
    file = detector(tmp_path / "net.onnx", size=size, metadata=metadata)
    found = ps.models.preprocessing_of(ps.models.from_onnx(file))
    assert (found.size if found is not None else None) == told
    if found is not None:
        assert (found.mean, found.std) == ((0.0,) * 3, (1.0,) * 3)


@pytest.fixture
def plain():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()  # fmt: skip


def test_our_own_note_of_mean_and_deviation_is_read_again(plain, tmp_path):
    mean, std = (0.5, 0.25, 0.125), (0.2, 0.3, 0.4)
    x = torch.rand(2, 3, 24, 16)
    ps.export(plain, tmp_path / "a.onnx", example=x, mean=mean, std=std)
    net = ps.models.from_onnx(tmp_path / "a.onnx")
    found = ps.models.preprocessing_of(net)
    assert found.size == (24, 16)
    assert found.mean == pytest.approx(mean)
    assert found.std == pytest.approx(std)
    torch.testing.assert_close(net(x), plain(x))


def test_a_file_of_ours_in_integers_is_known_as_quantized(plain, tmp_path):
    x = torch.rand(8, 3, 24, 16)
    assert not imported(plain, x, tmp_path).program.told["quantized"]
    wanted = plain(x)
    ps.quantize(plain, calibration=[x])
    net = imported(plain, x, tmp_path)
    assert net.program.told["quantized"]
    assert (net(x) - wanted).norm() < 0.1 * wanted.norm()
    ps.prune(net, x[:2], ratio=0.5)  # an ordinary network again
    assert net(x).shape == (8, 4)


def imported(model, x, folder):
    ps.export(model, folder / "net.onnx", example=x)
    return ps.models.from_onnx(folder / "net.onnx")
