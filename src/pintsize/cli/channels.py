"""The verb `prune`: channels go, to an amount or by a rule file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .inputs import Folder, Inputs, Out
from .rounds import Baseline, retrained
from .verbs import Given, Told, refuse, told, verb


@verb(place=31, data="optional", section="prune", more=("recover",))
def prune(
    *, inputs: Inputs, given: Given, out: Out = Path("pruned.safetensors"),
    rules: Annotated[
        Path | None, typer.Option(help="Rule file, instead of an amount: its stages, retraining for --recover-epochs.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="With --rules: print what each rule matches, and stop.")] = False,
    baseline: Baseline = False, folder: Folder = None,
) -> Told:  # fmt: skip
    """Remove channels from a network, to an amount or by a rule file, and save what is left."""
    from ..pruning import prune as prune_network
    from ..storage.network_file import check_savable, save

    retrains = given.any("recover")
    refuse(
        "options of retraining, --dry-run, --baseline or --folder",
        "they go with --rules",
        "to retrain after pruning to an amount, use `pintsize train` or `pintsize compress`",
        when=rules is None and (retrains or dry_run or baseline or folder is not None),
    )
    if rules is not None:
        if given.any("prune"):
            name = given.names("prune")[0].replace("_", "-")
            refuse(f"--{name} with --rules", "the rules say what goes", "leave it out", when=True)
        kept: dict[str, Any] = {"baseline": baseline, "folder": folder}
        return _by_rules(inputs, given if retrains else None, rules, out, dry_run=dry_run, **kept)
    settings = {key: value for key, value in given.values("prune").items() if value is not None}
    images, network = inputs.images_if_any, inputs.network
    check_savable(out)
    judged = None if images is None else images.train.at_most(1024, inputs.seed)
    plan = prune_network(network, inputs.example, **settings, data=judged, seed=inputs.seed)
    save(network, out)
    lines = [*_costs(plan.before, plan.after), *plan.notes, f"saved to {out}"]
    values = {"file": out, "before": plan.before, "after": plan.after, "notes": plan.notes}
    return told(values, "\n".join(lines))


def _by_rules(
    inputs: Inputs, given: Given | None, file: Path, out: Path, *, dry_run: bool, baseline: bool, folder: Path | None
) -> Told:  # fmt: skip
    """All stages of a rule file, with retraining between them if it is asked for."""
    from ..pruning import Rules, prune_by_rules
    from ..storage.network_file import check_savable, save

    rules, network = Rules.load(file), inputs.network
    check_savable(out)
    if dry_run:
        matched = {name: None if rule is None else str(rule) for name, rule in rules.match(network).items()}
        return told({"rules": matched}, rules.dry_run(network))
    refuse("--baseline or --folder", "nothing is trained", "pass --recover-epochs too",
           when=given is None and (baseline or folder is not None))  # fmt: skip
    if given is None:
        return _cut_alone(inputs, rules, out)
    refuse("options of training", "there is nothing to train on", "pass --data", when=inputs.data is None)
    training = retrained(given) | {"baseline": baseline, "folder": folder, "seed": inputs.seed}
    found = prune_by_rules(network, inputs.images, rules, **training)
    save(network, out)
    return told(
        {"file": out, "drop": found.drop, "stages": found.rounds},
        found,
        f"{found.told}\nsaved to {out}",
    )


def _cut_alone(inputs: Inputs, rules: Any, out: Path) -> Told:
    from ..measure import profile
    from ..pruning import RuleStages
    from ..storage.network_file import save

    network, example, images = inputs.network, inputs.example, inputs.images_if_any
    data = None if images is None else images.train
    stages = RuleStages(network, rules, example=example, data=data, seed=inputs.seed)
    before = profile(network, example)
    stages.run(rules.stages - 1)
    save(network, out)
    after = profile(network, example)
    costs = [{"params": one.params, "macs": one.macs} for one in (before, after)]
    lines = "\n".join(
        f"{name}: {costs[0][key]:,} → {costs[1][key]:,}"
        for name, key in (("parameters", "params"), ("MACs", "macs"))
    )
    return told({"file": out, "before": costs[0], "after": costs[1]}, f"{lines}\nsaved to {out}")


def _costs(before: Any, after: Any) -> list[str]:
    from ..units import count_text

    return [f"{name}: {count_text(before[name])} → {count_text(after[name])}" for name in before]
