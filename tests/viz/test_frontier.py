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
    assert [text.get_text() for text in axes.texts] == ["dense", "int8", "worse"]
    assert "3 networks, 2 on the Pareto front: int8 91.90 % at 470 kB; dense" in style.description(figure)


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
