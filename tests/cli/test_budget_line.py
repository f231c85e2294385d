"""What the command says of a budget in the end."""

import pytest

from pintsize.report.outcome import budget_line

FOUND = {
    "met": False,
    "chosen": "dense",
    "minimize": "bytes",
    "max_drop": None,
    "limit": 100,
    "least": 4360.0,
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "not met: dense (the cheapest network that was tried takes 4.36 kB; allow more than 100 B)"),
        ({"max_drop": 0.5, "limit": None}, "not met: dense (every smaller network that was tried lost more than 0.5 p"),
        ({"minimize": "macs"}, "that was tried takes 4.36 k MACs; allow more than 100 MACs)"),
        ({"minimize": "latency", "limit": 0.5, "least": 0.75}, "tried takes 0.750 ms; allow more than 0.500 ms)"),
        ({"met": True, "chosen": "full-1"}, "budget  met: full-1"),
    ],
)  # fmt: skip
def test_a_budget_that_is_not_met_says_why(changes, said):
    assert said in budget_line({"budget": {**FOUND, **changes}})


def test_a_search_without_time_says_so():
    dense = {"name": "dense", "finished": True}
    stopped = {"name": "full-1", "finished": False}
    late = {**FOUND, "candidates": [dense, stopped], "time_limit": 0.5, "seconds": 31.0}
    assert "in 0.5 minutes no smaller network was tried; allow more: time_limit" in budget_line(
        {"budget": late}
    )
    tried = {**late, "candidates": [dense, {"name": "probe-1", "finished": True}, stopped]}
    assert "the cheapest network that was tried" in budget_line({"budget": tried})
    early = {**late, "seconds": 2.0}
    assert "the cheapest network that was tried" in budget_line({"budget": early})


def test_a_run_without_a_budget_says_nothing():
    assert budget_line({}) == ""


def test_a_drop_is_told_in_the_units_of_the_metric():
    task = {"name": "regression", "metric": "MAE", "unit": "cm", "higher_is_better": False}
    told = budget_line({"budget": {**FOUND, "max_drop": 0.5, "limit": None}, "task": task})
    assert "lost more than 0.5 cm; allow more" in told
