"""Pictures of weights: what is drawn, counted by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from pintsize.errors import InputError
from pintsize.viz import style, weights


def test_histogram_counts_every_weight_and_draws_every_level():
    before = torch.tensor([-1.0, -0.6, 0.1, 0.2, 0.9, 1.0])
    after = torch.tensor([-1.0, -0.5, 0.0, 0.0, 1.0, 1.0])
    figure = weights.weight_histogram(before, after, layer="conv1", bins=10)
    axes = figure.axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == 6
    levels = [segment[0][0] for segment in axes.collections[0].get_segments()]
    assert levels == [-1.0, -0.5, 0.0, 1.0]
    assert "6 weights" in style.description(figure)
    assert "4 levels" in style.description(figure)


def test_per_channel_levels_become_a_second_histogram():
    before = torch.randn(20, 100, generator=torch.Generator().manual_seed(0))
    figure = weights.weight_histogram(before, before * 1.001)
    assert "each channel has its own levels" in figure.axes[0].get_legend().get_texts()[1].get_text().replace(
        "\n", " "
    )


def test_in_steps_of_each_channel_the_levels_are_the_same():
    scale = torch.tensor([0.1, 0.25])
    after = torch.tensor([[0.1, -0.3, 0.0], [0.25, 0.5, -0.75]])
    figure = weights.weight_histogram(after + 0.01, after, scale=scale, bins=10)
    levels = [segment[0][0] for segment in figure.axes[0].collections[0].get_segments()]
    assert levels == [-3, 0, 1, 2]
    assert figure.axes[0].get_xlabel() == "weight (steps of its channel)"
    with pytest.raises(InputError, match="2 scales"):
        weights.weight_histogram(torch.ones(3, 2), scale=scale)


@pytest.mark.parametrize("bad", [torch.empty(0), torch.tensor([1.0, float("nan")])])
def test_histogram_of_nothing(bad):
    with pytest.raises(InputError):
        weights.weight_histogram(bad)


def test_box_per_channel():
    figure = weights.channel_box(torch.arange(12.0).reshape(3, 2, 2, 1))
    medians = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_linewidth() == 1.4]
    assert medians == [1.5, 5.5, 9.5]
    assert "3 of 3 channels" in style.description(figure)
    with pytest.raises(InputError, match="no channels"):
        weights.channel_box(torch.ones(3))


def test_many_channels_are_thinned_but_keep_both_ends():
    figure = weights.channel_box(torch.randn(300, 4), most=30)
    boxes = figure.axes[0].patches
    assert len(boxes) == 30


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5))


def test_kept_weights_by_layer():
    model = net()
    model[0].weight.data.view(-1)[:27] = 0  # half of 54
    figure = weights.kept_weights(model)
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [50, 100]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "3"]
    assert "76.3 % over all" in style.description(figure)  # (27 + 60) of 114
    assert "least in 0 (50.0 %)" in style.description(figure)
    with pytest.raises(InputError):
        weights.kept_weights(nn.ReLU())


def test_kernels_are_means_over_input_channels():
    model = net()
    figure = weights.display_kernels(model)
    drawn = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(drawn) == 3
    assert np.allclose(drawn[1], model[0].weight[1].mean(0).detach().numpy())
    with pytest.raises(InputError, match="'3'"):
        weights.display_kernels(model, "3")


def test_scatter_counts_distinct_weights():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    first.weight.data = torch.tensor([[0.1, 0.1], [0.1, -0.2]])
    second.weight.data = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    figure = weights.display_scatter(first, second, labels=("k-means", "plain"))
    orange, blue = figure.axes[0].collections
    assert np.allclose(orange.get_offsets(), [[-0.2, 1], [0.1, 3]])
    assert len(blue.get_offsets()) == 4
    assert "k-means 2, plain 4" in style.description(figure)


def test_filter_norms_are_sorted_and_relative():
    model = nn.Conv1d(1, 3, 1)
    model.weight.data = torch.tensor([1.0, -4.0, 2.0]).reshape(3, 1, 1)
    figure = weights.filter_norms(model)
    assert np.allclose(figure.axes[0].lines[0].get_ydata(), [1, 0.5, 0.25])
    with pytest.raises(InputError, match="no convolution"):
        weights.filter_norms(nn.Linear(2, 2))
