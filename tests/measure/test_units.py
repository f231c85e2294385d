"""Numbers for people."""

import pytest

from pintsize.units import ACCURACY, Scale, bytes_text, count_text, drop_text, milliseconds_text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (999.6, "1.00 k"),
        (1500, "1.50 k"),
        (11_689_512, "11.7 M"),
        (999_950, "1.00 M"),
        (1.814e9, "1.81 G"),
        (15.47e9, "15.5 G"),
        (0.5, "0.500"),
        (0.0123, "0.0123"),
    ],
)
def test_count(number, text):
    assert count_text(number) == text


def test_bytes_and_milliseconds():
    assert [bytes_text(n) for n in (12, 470_000, 44_700_000)] == ["12 B", "470 kB", "44.7 MB"]
    assert [milliseconds_text(n) for n in (0.79321, 2.9, 17.84, 123.4)] == [
        "0.793 ms",
        "2.90 ms",
        "17.8 ms",
        "123 ms",
    ]


def test_small_figures_of_other_metrics_keep_their_digits_and_accuracies_two_decimals():
    loss = Scale("MAE", "cm", higher_is_better=False)
    assert (loss.told(0.00312), loss.told(15.75), loss.label, loss.points) == (
        "0.00312 cm",
        "15.75 cm",
        "MAE (cm)",
        "cm",
    )
    assert (ACCURACY.told(0.5), ACCURACY.label, ACCURACY.points) == ("0.50 %", "accuracy (%)", "points")
    assert (drop_text(0.0031, "cm"), drop_text(0.0031)) == ("0.0031 cm lost", "no accuracy lost")
    assert Scale("top-5 accuracy", "%").points == Scale("mIoU", "%").points == "points"
    assert (drop_text(0.001, "points", "mIoU"), drop_text(2, "points", "mIoU")) == (
        "no mIoU lost",
        "2.00 points lost",
    )
    assert (loss.best([3.0, 2.0]), loss.worse(2.0, 3.0), ACCURACY.worse(2.0, 3.0)) == (2.0, 1.0, -1.0)
    assert Scale.of(loss.named()) == loss
    assert Scale.of(ACCURACY.named()) == ACCURACY
