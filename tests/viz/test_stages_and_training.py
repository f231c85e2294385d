"""What the figures of a run show, read back from their axes."""

import pytest

from pintsize.errors import InputError
from pintsize.viz import stages, style, training

STAGES = [
    {"name": "dense fp32", "accuracy": 91.8, "params": 1000, "bytes": 4000, "latency": {"median_ms": 8.0}},
    {"name": "pruned int8", "accuracy": 91.5, "params": 300, "bytes": 400, "latency": None},
]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def widths(axes):
    return [bar.get_width() for bar in axes.patches]


def test_stage_bars_show_each_quantity_that_was_measured():
    figure = stages.stage_bars(STAGES)
    shown = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(shown) == ["accuracy (%)", "parameters", "file size", "latency, median"]  # no MACs
    assert widths(shown["parameters"]) == [1000, 300]
    assert texts(shown["file size"]) == ["4.00 kB", "400 B"]
    assert texts(shown["latency, median"]) == ["8.00 ms", "not measured"]
    assert [label.get_text() for label in shown["parameters"].get_yticklabels()] == [
        "dense fp32",
        "pruned int8",
    ]
    assert "dense fp32 91.80" in style.description(figure)


def test_rounds_are_numbered_from_the_dense_network():
    figure = stages.round_bars([{"params": 11_170_000}, {"params": 4_490_000}])
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["round 0", "round 1"]


def test_nothing_measured():
    with pytest.raises(InputError, match="none has anything measured"):
        stages.stage_bars([{"name": "dense"}])
    with pytest.raises(InputError, match="nothing measured"):
        stages.runtime_bars({"a": {}})


def test_filters_before_and_after():
    figure = stages.filters_per_layer({"conv1": [64, 30], "conv2": [128, 128]})
    assert widths(figure.axes[0]) == [64, 128, 30, 128]
    assert style.description(figure) == "Filters per layer: 192 before, 158 after, in 2 layers."
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["before", "after"]


@pytest.mark.parametrize("filters", [{}, {"a": [1, 2], "b": [1]}, {"a": [1, 2, 3]}])
def test_filters_of_unequal_moments(filters):
    with pytest.raises(InputError):
        stages.filters_per_layer(filters)


def test_runtimes_show_median_size_and_p95():
    figure = stages.runtime_bars(
        {"ort": {"median_ms": 2.0, "p95_ms": 3.0, "bytes": 10}, "ov": {"median_ms": 1.0}}
    )
    speed, size = figure.axes
    assert widths(speed) == [2, 1]
    assert list(speed.lines[0].get_xdata()) == [2, 3]  # the whisker
    assert texts(size) == ["10 B", "not measured"]


EPOCHS = [
    {
        "epoch": e,
        "train_loss": 2 - e / 10,
        "val_loss": 2.0,
        "train_accuracy": 80.0 + e,
        "val_accuracy": 70.0 + e,
    }
    for e in range(5)
]


def test_training_curves_go_through_all_phases():
    figure = training.training_curves({"train": EPOCHS, "recover": EPOCHS[:2], "none": []}, recovery_ends=[5])
    loss, accuracy = figure.axes
    trained, validated = accuracy.lines[:2]
    assert list(trained.get_xdata()) == [1, 2, 3, 4, 5, 6, 7]
    assert list(validated.get_ydata()) == [70, 71, 72, 73, 74, 70, 71]
    assert texts(loss) == ["train", "recover"]
    marks = [line for line in accuracy.lines if line.get_marker() == "v"]
    assert (list(marks[0].get_xdata()), list(marks[0].get_ydata())) == ([5], [74])
    assert "best validation accuracy 74.00 %" in style.description(figure)


def test_the_legend_lies_over_no_curve():
    flat = [{**epoch, "train_accuracy": 99.0, "val_accuracy": 98.0} for epoch in EPOCHS]
    figure = training.training_curves(flat, recovery_ends=[2, 5])
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["training", "validation", "recovery ends"]
    box = legend.get_window_extent()
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)
    assert figure.bbox.containsx(box.x0)
    assert figure.bbox.containsx(box.x1)


def test_training_without_validation():
    figure = training.training_curves([{"train_loss": 1.0, "train_accuracy": None, "val_accuracy": None}])
    assert len(figure.axes[0].lines) == 1
    assert not figure.legends  # there is no accuracy to tell apart
    assert "1 epochs" in style.description(figure)


def test_no_epochs():
    with pytest.raises(InputError):
        training.training_curves({"train": []})


def test_heat_map_of_either_orientation():
    by_layer = {"a": [1.0, 0.5, 0.25], "b": [1.0, 1.0, 0.75]}
    by_epoch = [{"a": 1.0, "b": 1.0}, {"a": 0.5, "b": 1.0}, {"a": 0.25, "b": 0.75}]
    images = [
        training.layer_epoch_heatmap(kept).axes[0].images[0].get_array() for kept in (by_layer, by_epoch)
    ]
    assert images[0].tolist() == images[1].tolist() == [[100, 50, 25], [100, 100, 75]]
    assert "least in a (25 %)" in style.description(training.layer_epoch_heatmap(by_layer))


@pytest.mark.parametrize("kept", [{}, {"a": []}, {"a": [1.0], "b": [1.0, 0.5]}, []])
def test_heat_map_needs_the_same_epochs(kept):
    with pytest.raises(InputError):
        training.layer_epoch_heatmap(kept)


def test_what_is_left_over_the_epochs():
    figure = training.left_over_epochs(
        [{"params": 1.0, "macs": 0.9}, {"params": 0.5, "macs": 0.8}], recovery_ends=[1]
    )
    curves = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines[:2]}
    assert curves == {"parameters": [100, 50], "MACs": [90, 80]}
    assert list(figure.axes[0].lines[2].get_xdata()) == [1.5, 1.5]
    assert "after 2 epochs 50 % of parameters, 80 % of MACs" in style.description(figure)
    with pytest.raises(InputError):
        training.left_over_epochs([{"epoch": 1}])
