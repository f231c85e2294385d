"""What came of what a run was asked for, in a line each: a budget, a target of attention."""

from __future__ import annotations

from typing import Any

from ..units import COST_TEXTS
from .run import AttentionOutcome, Judged
from .summary import attention_text


def outcome_lines(metrics: dict[str, Any]) -> str:
    """All that there is to tell, each behind a line break."""
    return budget_line(metrics) + _attention_line(metrics)


def budget_line(metrics: dict[str, Any]) -> str:
    """Whether a budget was met, and by which candidate; else why not, and what may help."""
    found = metrics.get("budget")
    if found is None:
        return ""
    if found["met"]:
        return f"\nbudget  met: {found['chosen']}"
    text, unit = COST_TEXTS[found["minimize"]], " MACs" if found["minimize"] == "macs" else ""
    smaller = [one for one in found.get("candidates", ()) if one["finished"] and one["name"] != "dense"]
    limit = found.get("time_limit")
    if not smaller and limit is not None and found["seconds"] >= 0.9 * 60 * limit:
        return f"\nbudget  not met: in {limit:g} minutes no smaller network was tried; allow more: time_limit"
    lost = Judged.model_validate(metrics.get("task") or {}).scale.points
    why = (
        f"every smaller network that was tried lost more than {found['max_drop']:g} {lost}; allow more, or more epochs "
        "of recovery and minutes for the search"
        if found["limit"] is None
        else f"the cheapest network that was tried takes {text(found['least'])}{unit}; "
        f"allow more than {text(found['limit'])}{unit}"
    )
    return f"\nbudget  not met: {found['chosen']} ({why})"


def _attention_line(metrics: dict[str, Any]) -> str:
    """What pruning by attention left, and whether that was asked for."""
    if metrics.get("attention") is None:
        return ""
    found = AttentionOutcome.model_validate(metrics["attention"])
    verdict = {True: "target met: ", False: "target not met: ", None: ""}[found.met]
    return f"\nattention  {verdict}{attention_text(found)}"
