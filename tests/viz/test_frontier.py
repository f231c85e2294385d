"""The Pareto front against brute force, and what the scatter shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pintsize.errors import InputError
from pintsize.viz import frontier, style


def test_front_by_hand():
    points = [(3, 90), (1, 80), (2, 80), (2, 85), (4, 89), (3, 90)]
    assert frontier.pareto_front(points) == [1, 3, 0, 5]
    assert frontier.pareto_front([]) == []


number = st.integers(0, 6)


@given(st.lists(st.tuples(number, number), max_size=12))
def test_front_is_what_nobody_beats(points):
    def beats(a, b):
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    expected = {i for i, p in enumerate(points) if not any(beats(q, p) for q in points)}
    assert set(frontier.pareto_front(points)) == expected


POINTS = [
    {"name": "dense", "accuracy": 92.0, "bytes": 1_860_000},
    {"name": "int8", "accuracy": 91.9, "bytes": 470_000},
    {"name": "worse", "accuracy": 90.0, "bytes": 500_000},
    {"name": "unmeasured", "accuracy": 90.0, "bytes": None},
]


def test_scatter_draws_the_front_and_links_every_point():
    figure = frontier.accuracy_compression(POINTS, urls=["#0", "#1", "#2", "#3"])
    axes = figure.axes[0]
    assert [list(line) for line in axes.lines[0].get_xydata()] == [[470_000, 91.9], [1_860_000, 92.0]]
    assert [dots.get_urls() for dots in axes.collections] == [["#0"], ["#1"], ["#2"]]
    filled = [len(dots.get_facecolors()) for dots in axes.collections]
    assert filled == [1, 1, 0]
    assert [text.get_text() for text in axes.texts] == ["int8", "dense", "worse"]  # the front comes first
    assert "3 networks, 2 on the Pareto front: int8 91.90 % at 470 kB; dense" in style.description(figure)


def boxes(axes):
    axes.figure.draw_without_rendering()
    return [text.get_window_extent() for text in axes.texts]


def check_names_meet_nothing(figure, points):
    (axes,) = figure.axes
    found = boxes(axes)
    assert not any(a.overlaps(b) for at, a in enumerate(found) for b in found[:at])
    dots = axes.transData.transform(points)
    assert not any(box.contains(*dot) for box in found for dot in dots)
    assert all(axes.bbox.contains(*corner) for box in found for corner in box.corners())


def test_of_many_points_only_the_front_is_named_and_no_names_meet():
    costs = [175, 175, 135, 111, 101, 95, 91, 87, 80, 77, 75, 72]  # of an attention pruning
    accuracies = [95.8, 97.2, 97.2, 97.9, 99.3, 94.4, 98.6, 98.6, 100.0, 97.2, 98.6, 97.9]
    rows = list(zip(costs, accuracies, strict=True))
    points = [
        {"name": f"epoch {epoch}", "params": cost, "accuracy": accuracy}
        for epoch, (cost, accuracy) in enumerate(rows, 1)
    ]
    figure = frontier.accuracy_compression(points, cost="params")
    assert [text.get_text() for text in figure.axes[0].texts] == ["epoch 12", "epoch 11", "epoch 9"]
    check_names_meet_nothing(figure, rows)


def test_a_name_without_room_is_left_out():
    rows = [(1000 + step, 90 + step / 1000) for step in range(10)] + [(2000, 95)]
    points = [{"name": f"network {n}", "bytes": x, "accuracy": y} for n, (x, y) in enumerate(rows)]
    figure = frontier.accuracy_compression(points)
    assert 2 <= len(figure.axes[0].texts) < len(points)
    check_names_meet_nothing(figure, rows)
    assert "network 5 90." in style.description(figure)  # it is told still


def test_wide_costs_are_drawn_on_a_logarithmic_axis():
    wide = [{"name": "a", "accuracy": 1, "macs": 1}, {"name": "b", "accuracy": 2, "macs": 100}]
    assert frontier.accuracy_compression(wide, cost="macs").axes[0].get_xscale() == "log"
    assert frontier.accuracy_compression(POINTS).axes[0].get_xscale() == "linear"


def test_series_by_bits():
    figure = frontier.bits_frontier(
        {"W8A8": [{"name": "0 %", "accuracy": 93, "bytes": 470}, {"accuracy": 89, "bytes": 280}]},
        reference={"published": [{"accuracy": 90, "bytes": 300}]},
    )
    axes = figure.axes[0]
    ours, published = axes.lines[1:]
    assert list(ours.get_xdata()) == [280, 470]  # by cost
    assert published.get_markerfacecolor() == "none"
    assert [text.get_text() for text in axes.texts] == ["0 %"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: frontier.accuracy_compression([{"name": "a", "accuracy": 1}]),
        lambda: frontier.bits_frontier({}),
        lambda: frontier.bits_frontier({"a": [{"accuracy": 1}]}),
    ],
)
def test_points_without_cost(call):
    with pytest.raises(InputError):
        call()


ERROR = {"metric_name": "MAE", "metric_unit": "cm", "higher_is_better": False}


def test_of_errors_the_least_are_on_the_front():
    points = [{**point, **ERROR, "accuracy": 100 - point["accuracy"]} for point in POINTS]
    figure = frontier.accuracy_compression(points)
    assert [line[1] for line in figure.axes[0].lines[0].get_xydata()] == pytest.approx([8.1, 8.0])
    assert figure.axes[0].get_ylabel() == "MAE (cm)"
    assert figure.axes[0].get_title(loc="left") == "MAE against file size"
    assert "int8 8.10 cm at 470 kB; dense 8.00 cm" in style.description(figure)


def test_series_of_errors():
    series = {
        "W8A8": [{"accuracy": 0.031, "bytes": 470, **ERROR}, {"accuracy": 0.048, "bytes": 280, **ERROR}]
    }
    series["W4A8"] = [{"accuracy": 0.05, "bytes": 300, **ERROR}]
    figure = frontier.bits_frontier(series)
    assert [line[1] for line in figure.axes[0].lines[0].get_xydata()] == [0.048, 0.031]
    assert figure.axes[0].get_ylabel() == "MAE (cm)"
    said = "MAE against size, by bits: W8A8 down to 0.031 cm, W4A8 down to 0.05 cm."
    assert style.description(figure) == said


def test_what_several_metrics_judge_is_in_no_picture_together():
    mixed = [POINTS[0], {**POINTS[1], **ERROR}]
    with pytest.raises(InputError, match=r"accuracy \(%\) and by MAE \(cm\)"):
        frontier.accuracy_compression(mixed)
    with pytest.raises(InputError, match="one metric"):
        frontier.bits_frontier({"W8A8": mixed})
