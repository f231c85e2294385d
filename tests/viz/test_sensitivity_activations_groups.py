"""Curves, activations and channel groups, read back from the axes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pintsize.errors import InputError
from pintsize.graph import channel_groups
from pintsize.units import Scale
from pintsize.viz import activations, groups, style
from pintsize.viz import scans as sensitivity

CURVES = {"conv1": {0.9: 50.0, 0.0: 90.0, 0.5: 80.0}, "conv2": {0.0: 90.0, 0.9: 70.0}}


def test_sensitivity():
    figure = sensitivity.sensitivity_curves(CURVES, max_drop=0.5)
    axes = figure.axes[0]
    assert list(axes.lines[0].get_xdata()) == [0, 50, 90]
    assert list(axes.lines[0].get_ydata()) == [90, 80, 50]
    assert axes.lines[2].get_ydata()[0] == 89.5
    assert "50.0 % for conv1 (most sensitive) and to 70.0 % for conv2" in style.description(figure)


def test_many_layers_get_a_depth_bar():
    figure = sensitivity.sensitivity_curves({f"l{i}": CURVES["conv1"] for i in range(20)})
    assert figure.axes[0].get_legend() is None
    assert figure.axes[1].get_ylabel() == "layer, from the input on"


def test_importance_with_and_without_retraining():
    figure = sensitivity.layer_importance(CURVES, {"conv1": {0.0: 90.0, 0.9: 85.0}})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["without retraining", "after retraining"]
    assert "largest fall is 40.0 points, of conv1" in style.description(figure)
    assert len(sensitivity.layer_importance(CURVES).axes) == 1


@pytest.mark.parametrize("curves", [{}, {"a": {}}])
def test_no_curves(curves):
    with pytest.raises(InputError):
        sensitivity.sensitivity_curves(curves)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.act = nn.ReLU6(inplace=True)
        self.fc = nn.Linear(2, 4, bias=False)

    def forward(self, x):
        x = self.act(self.conv(x))
        x.add_(100)  # what was caught must not change with it
        return F.relu(self.fc(x.mean((2, 3))))


def test_activations_of_modules_and_functions():
    model, image = Net().train(), torch.randn(3, 5, 5)
    figure = activations.display_activations(model, image)
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == ["input", "1 act", "2 (root)"]
    expected = model.conv(image[None]).clamp(0, 6)[0].mean(0).detach().numpy()
    assert np.allclose(shown[1].images[0].get_array(), expected)
    assert shown[2].images[0].get_array().shape == (1, 4)
    assert model.training


def test_activations_need_one_image_and_a_relu():
    with pytest.raises(InputError, match="not one image"):
        activations.display_activations(Net(), torch.randn(2, 3, 5, 5))
    with pytest.raises(InputError, match="no ReLU"):
        activations.display_activations(nn.Conv2d(3, 1, 1), torch.randn(3, 5, 5))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.b = nn.Conv2d(4, 6, 1)
        self.c = nn.Conv2d(6, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = self.a(x).relu()
        return self.fc((x + self.c(self.b(x).relu())).mean((2, 3)))


def test_groups_show_who_makes_and_who_reads():
    model = Residual()
    figure = groups.channel_group_graph(channel_groups(model, torch.randn(1, 3, 4, 4)), model=model)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c", "fc"]
    dots = [sorted(offset[1] for offset in made.get_offsets()) for made in axes.collections]
    assert dots == [
        [0, 2],
        [1, 3],
        [1],
        [2],
    ]  # a and c make the stream, b and fc read it; b makes 6, c reads them
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "6"]
    assert "2 layers share 4 channels" in style.description(figure)
    with pytest.raises(InputError):
        groups.channel_group_graph([])


def test_every_public_name_is_there():
    from pintsize import viz

    assert all(callable(getattr(viz, name)) for name in viz.__all__)
    assert set(dir(viz)) == set(viz.__all__)
    with pytest.raises(AttributeError):
        viz.nothing  # noqa: B018


ERRORS = {"conv1": {0.9: 50.0, 0.0: 6.68, 0.5: 8.0}, "conv2": {0.0: 6.68, 0.9: 7.0}}
MAE = Scale("MAE", "cm", higher_is_better=False)


def test_sensitivity_of_an_error_rises():
    figure = sensitivity.sensitivity_curves(ERRORS, max_drop=2.0, scale=MAE)
    axes = figure.axes[0]
    assert axes.get_ylabel() == "MAE (cm)"
    assert axes.lines[2].get_ydata()[0] == pytest.approx(8.68)
    assert [text.get_text() for text in axes.texts] == ["2 cm above dense"]
    told = style.description(figure)
    assert (
        "MAE rises from 6.7 cm to 50.0 cm for conv1 (most sensitive) and to 7.0 cm for conv2 (least)" in told
    )


def test_importance_of_an_error_rises():
    figure = sensitivity.layer_importance(ERRORS, {"conv1": {0.0: 6.68, 0.9: 7.5}}, scale=MAE)
    assert [axes.get_ylabel() for axes in figure.axes] == ["MAE (cm)"] * 2
    assert "largest rise is 43.3 cm, of conv1" in style.description(figure)
