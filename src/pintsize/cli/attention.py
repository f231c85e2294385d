"""The verb `attention`: which channels matter is learned."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from .inputs import Checkpoint, Inputs, LogDir, Out
from .output import compared
from .verbs import Given, Told, told, verb


@verb(place=34, data="needed", section="attention")
def attention(
    *, inputs: Inputs, given: Given, out: Out = Path("pruned.safetensors"), checkpoint: Checkpoint = None,
    log_dir: LogDir = None,
) -> Told:  # fmt: skip
    """Learn which channels of a trained network matter, cut the others out, and save what is left."""
    from ..pruning import prune_by_attention
    from ..storage.network_file import check_savable, save
    from ..training import evaluate
    from ..units import count_text

    options = dataclasses.replace(given.section("attention"), seed=inputs.seed)
    check_savable(out)
    images, network = inputs.images, inputs.network
    before = evaluate(network, images.val)
    found = prune_by_attention(
        network, images, example=inputs.example, checkpoint=checkpoint, log_dir=log_dir, **dataclasses.asdict(options)
    )  # fmt: skip
    save(network, out)
    plan = found.plan
    drop, text = compared(before, evaluate(network, images.val), images)
    values = {"file": out, **drop, "before": plan.before, "after": plan.after, "reason": found.reason,
              "history": list(found.history)}  # fmt: skip
    costs = [
        f"{name}: {count_text(plan.before[name])} → {count_text(plan.after[name])}" for name in plan.before
    ]
    return told(values, "\n".join([*costs, f"ended: {found.reason}", f"{out}: {text}"]))
