"""Numbers for people."""

import pytest

from pintsize.units import bytes_text, count_text, milliseconds_text


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
