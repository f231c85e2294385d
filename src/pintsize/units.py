"""Numbers for people: 1.81 G, 44.7 MB, 2.9 ms."""

from __future__ import annotations


def count_text(number: float) -> str:
    """Three significant digits with a decimal prefix: 11689512 → '11.7 M'."""
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit * 0.9995:
            return f"{_three(number / limit)} {prefix}"
    return str(int(number)) if number == int(number) else _three(number)


def bytes_text(number: float) -> str:
    """Decimal bytes: 470_000 → '470 kB'."""
    text = count_text(number)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def milliseconds_text(number: float) -> str:
    """Three significant digits: 0.7932 → '0.793 ms'."""
    return f"{_three(number)} ms"


def drop_text(drop: float, unit: str = "points") -> str:
    """Points of accuracy, or units of another metric, lost or gained: 3.667 → '3.67 points lost'."""
    text = f"{abs(drop):.2f}"
    if float(text) == 0:
        return "no accuracy lost" if unit == "points" else "nothing lost"
    return f"{text} {unit} {'lost' if drop > 0 else 'gained'}"


COST_TEXTS = {"latency": milliseconds_text, "bytes": bytes_text, "macs": count_text}
"""How the costs that a budget may name are told."""


def _three(number: float) -> str:
    digits = 2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0
    return f"{number:.{digits}f}" if abs(number) >= 0.995 else f"{number:#.3g}"
