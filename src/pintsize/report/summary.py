"""What was lost and what was gained, in sentences: the first thing a report says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..units import Scale, bytes_text, count_text, drop_text, milliseconds_text
from .live import Progress
from .run import LONGER, AttentionOutcome, Metrics, Stage

_NOISE = 0.97
"""Medians of one run differ by this factor for no reason: a step has to do better than that to count."""


@dataclass(frozen=True)
class Fact:
    """One quantity before and after."""

    label: str
    headline: str
    detail: str
    good: bool | None
    """True for a gain, False for a loss, None for neither."""


@dataclass(frozen=True)
class Summary:
    """The top of the report."""

    sentence: str
    facts: list[Fact]
    verdict: str
    verified: bool | None
    """None if the file was not verified."""
    warnings: list[str]
    """What did not pay, plainly."""


def summarise(metrics: Metrics) -> Summary:
    """Compare the last stage with the dense network; a quantity that either lacks is left out."""
    facts: list[Fact] = []
    if metrics.baseline is not None:
        first, last = metrics.baseline, metrics.stages[-1]
        facts = [
            fact
            for fact in (
                _accuracy(first, last, metrics),
                _factor("file size", first.bytes, last.bytes, bytes_text, "smaller", "larger"),
                _factor("latency", first.median_ms, last.median_ms, milliseconds_text, "faster", "slower"),
                _less("MACs", first.macs, last.macs),
                _less("parameters", first.params, last.params),
            )
            if fact
        ]
    verdict, verified = _verdict(metrics)
    return Summary(_sentence(metrics, facts), facts, verdict, verified, _warnings(metrics))


def attention_text(found: AttentionOutcome) -> str:
    """What pruning by attention left; of a missed target also what was asked, why, and what may help."""
    told = f"{100 * found.left:.4g} % of the parameters are left"
    if found.target is None:
        return f"{told} ({found.reason})"
    told += f", {100 * found.target:.4g} % were asked for"
    if found.met:
        return told
    return f"{told} ({found.reason}" + (f"; {found.remedy})" if found.remedy else ")")


def going_on(progress: Sequence[Progress], scale: Scale) -> str:
    """Where a run that goes on has come to."""
    told = [
        f"{stage.name} {'done' if stage.done else 'goes on'}"
        + (f" after {stage.epochs} epochs" if stage.epochs and not stage.done else "")
        + (
            f", validation {scale.metric} {scale.told(stage.val_accuracy)}"
            if stage.val_accuracy is not None
            else ""
        )
        for stage in progress
    ]
    return f"{'; '.join(told)}." if told else "Nothing of this run is done yet."


def _sentence(metrics: Metrics, facts: list[Fact]) -> str:
    if not metrics.stages:
        return "No stage of this run has ended yet."
    if metrics.baseline is None:
        stage = metrics.stages[0]
        value = stage.accuracy
        reached = f" at {metrics.scale.told(value)} {metrics.scale.metric}" if value is not None else ""
        return f"One stage so far: {stage.name}{reached}."
    said = ", ".join(fact.headline for fact in facts[:3]) or "nothing was measured on both"
    return f"{metrics.stages[-1].name} against {metrics.baseline.name}: {said}."


def _accuracy(first: Stage, last: Stage, metrics: Metrics) -> Fact | None:
    drop, scale = metrics.drop, metrics.scale
    if first.accuracy is None or last.accuracy is None or drop is None:
        return None
    told = f"{scale.told(first.accuracy)} → {scale.told(last.accuracy)}"
    return Fact(scale.metric, drop_text(drop, scale.points, scale.metric), told, None if drop > 0 else True)


def _factor(
    label: str, first: float | None, last: float | None, text: Callable[[Any], str], better: str, worse: str
) -> Fact | None:
    if not first or not last:
        return None
    times, told = _times(first / last, better, worse), (text(first), text(last))
    if told[0] == told[1] or times.startswith("1.00×"):  # what rounds to once is no change
        return Fact(label, f"{label} unchanged", " → ".join(told), None)
    return Fact(label, times, " → ".join(told), last < first)


def _less(label: str, first: int | None, last: int | None) -> Fact | None:
    if not first or last is None:
        return None
    change = 100 * (1 - last / first)
    share = f"{abs(change):.0f}" if abs(change) >= 0.5 else "under 1"
    headline = f"{share} % {'fewer' if change >= 0 else 'more'} {label}"
    return Fact(
        label,
        f"{label} unchanged" if last == first else headline,
        f"{count_text(first)} → {count_text(last)}",
        change > 0 if last != first else None,
    )


def _times(ratio: float, better: str, worse: str) -> str:
    number = max(ratio, 1 / ratio)
    text = f"{number:.2f}" if number < 9.95 else f"{number:.1f}"
    return f"{text}× {better if ratio >= 1 else worse}"


def _verdict(metrics: Metrics) -> tuple[str, bool | None]:
    found = metrics.verification
    if found is None or found.ok is None:
        return "Not verified: the exported file was not held against the model.", None
    told = []
    if found.agreement is not None:
        told.append(f"file and model name the same class for {found.agreement:.2f} % of the images")
    if found.max_logit_error is not None:
        told.append(f"their logits differ by at most {found.max_logit_error:.3g}")
    because = f": {', '.join(told)}" if told else ""
    return f"{'Verified' if found.ok else 'Verification failed'}{because}.", found.ok


def _warnings(metrics: Metrics) -> list[str]:
    found = []
    stages = [stage for stage in metrics.stages if stage.name != LONGER]  # the dense network again is no step
    for before, after in zip(stages, stages[1:], strict=False):
        if before.median_ms and after.median_ms and after.median_ms > _NOISE * before.median_ms:
            found.append(f"{_slower(before, after)} This step did not pay in latency.")
        if before.bytes and after.bytes and after.bytes > before.bytes:
            sizes = bytes_text(after.bytes), bytes_text(before.bytes)
            if sizes[0] != sizes[1]:
                found.append(f"{after.name} is larger than {before.name}: {sizes[0]} against {sizes[1]}.")
    return found


def _slower(before: Stage, after: Stage) -> str:
    assert before.median_ms
    assert after.median_ms
    pair = f"{milliseconds_text(after.median_ms)} against {milliseconds_text(before.median_ms)}"
    if after.median_ms * _NOISE <= before.median_ms:
        return f"{after.name} is no faster than {before.name} on this machine: {pair}."
    factor = _times(before.median_ms / after.median_ms, "faster", "slower")
    return f"{after.name} is slower than {before.name} on this machine: {pair} ({factor})."
