"""The verb `scan`: what each part of a network costs when it alone is pruned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .inputs import Inputs
from .verbs import Told, refuse, told, verb


@verb(place=30, data="needed")
def scan(
    *, inputs: Inputs,
    level: Annotated[str, typer.Option(help="What is pruned alone: weight, filter or group.")] = "weight",
    ratios: Annotated[str | None, typer.Option(help="Removed fractions, rising; by default 0.1,0.2,…,0.9.")] = None,
    importance: Annotated[str | None, typer.Option(help="Criterion; what scores lowest goes first.")] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Layers to leave out, names or shell patterns; repeatable.")
    ] = None,
    images: Annotated[int, typer.Option(help="Validation images.")] = 1000,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="JSON file, written as the scan goes; one that was stopped goes on.")
    ] = Path("scan.json"),
    plot: Annotated[Path | None, typer.Option(help="Picture of the curves to write.")] = None,
    rules: Annotated[Path | None, typer.Option(help="Rule file to write, for --max-drop.")] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Points, or units of another metric, that pruning one part may cost; for --rules.")
    ] = None,
    stages: Annotated[int, typer.Option(help="Stages of the rule file.")] = 1,
    overwrite: Annotated[bool, typer.Option(help="Replace a rule file that is there.")] = False,
    epochs: Annotated[
        int, typer.Option(help="Layer importance: retrain for so many epochs after each cut (level group).")
    ] = 0,
    lr: Annotated[float, typer.Option(help="Learning rate of that retraining.")] = 0.01,
) -> Told:  # fmt: skip
    """Measure what each part of a network costs when it alone is pruned; write the rules that follow."""
    from ..pruning import layer_importance, sensitivity
    from ..pruning.scans.scan import RATIOS
    from ..recipe.numbers import numbers
    from ..storage.atomic import check_place
    from ..viz import save as save_figure

    refuse("--rules and --max-drop", "one is given without the other", "give both or neither",
           when=(rules is None) != (max_drop is None))  # fmt: skip
    refuse(f"rule file {rules}", "it exists", "choose another name, or pass --overwrite",
           when=rules is not None and rules.exists() and not overwrite)  # fmt: skip
    refuse(f"--epochs with --level {level}", "what is retrained is really cut out", "pass --level group",
           when=bool(epochs) and level != "group")  # fmt: skip
    written = [path for path in (out, plot, rules) if path is not None]
    for path in written:
        check_place(path)
    common: dict[str, Any] = {
        "ratios": RATIOS if ratios is None else numbers("--ratios", ratios),
        "ignore": tuple(ignore or ()),
        "seed": inputs.seed,
    }
    data, network = inputs.images, inputs.network
    shown: Any
    if epochs:
        shown = layer_importance(
            network, data, importance=importance or "l1", epochs=epochs, lr=lr, folder=out.with_suffix(""), **common
        )  # fmt: skip
        result = shown.without
        result.save(out)
    else:
        few = data.val.at_most(images, inputs.seed)
        shown = result = sensitivity(network, few, level=level, importance=importance, path=out, **common)
    if plot is not None:
        save_figure(shown.plot() if epochs else result.plot(max_drop=max_drop), plot)
    if rules is not None and max_drop is not None:
        result.to_rules(max_drop, stages=stages).save(rules, overwrite=overwrite)
    retrained = getattr(shown, "retrained", {})
    values = {"file": out, "plot": plot, "rules": rules, "scan": result, "retrained": retrained}
    return told(values, shown, f"written: {', '.join(map(str, written))}")
