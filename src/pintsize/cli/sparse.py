"""Verbs that scan a network and prune it by masks, by a rule file, or in rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..recipe.options import OPTIONS, changes
from ..recipe.recipe import Recipe
from ..recipe.sparse import RoundsOptions, SparsifyOptions
from . import options as o
from .loading import load_data, load_model
from .output import emit

Importance = Annotated[str | None, typer.Option(help="Criterion; what scores lowest goes first.")]
Ignore = Annotated[
    list[str] | None, typer.Option(help="Layers to leave out, names or shell patterns; repeatable.")
]
Folder = Annotated[
    Path | None,
    typer.Option(help="Keeps what is done, file by file; a run that was stopped goes on from it."),
]
Baseline = Annotated[
    bool, typer.Option(help="Train the dense network on for as many epochs, to compare fairly.")
]


def scan(
    *,
    model: o.Model,
    data: o.Data,
    level: Annotated[str, typer.Option(help="What is pruned alone: weight, filter or group.")] = "weight",
    ratios: Annotated[
        str | None, typer.Option(help="Removed fractions, rising; by default 0.1,0.2,…,0.9.")
    ] = None,
    importance: Importance = None,
    ignore: Ignore = None,
    images: Annotated[int, typer.Option(help="Validation images.")] = 1000,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="JSON file, written as the scan goes; one that was stopped goes on."
        ),
    ] = Path("scan.json"),
    plot: Annotated[Path | None, typer.Option(help="Picture of the curves to write.")] = None,
    rules: Annotated[Path | None, typer.Option(help="Rule file to write, for --max-drop.")] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Points that pruning one part may cost, for --rules.")
    ] = None,
    stages: Annotated[int, typer.Option(help="Stages of the rule file.")] = 1,
    overwrite: Annotated[bool, typer.Option(help="Replace a rule file that is there.")] = False,
    epochs: Annotated[
        int, typer.Option(help="Layer importance: retrain for so many epochs after each cut (level group).")
    ] = 0,
    lr: Annotated[float, typer.Option(help="Learning rate of that retraining.")] = 0.01,
    model_weights: o.ModelWeights = None,
    num_classes: o.NumClasses = None,
    in_channels: o.InChannels = None,
    stem: o.Stem = "auto",
    val_fraction: o.ValFraction = 0.1,
    limit: o.Limit = None,
    image_size: o.ImageSize = None,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
) -> None:
    """Measure what each part of a network costs when it alone is pruned; write the rules that follow."""
    from ..pruning.scans.importance import layer_importance
    from ..pruning.scans.scan import RATIOS, sensitivity
    from ..storage.atomic import check_place
    from ..viz import save as save_figure

    if (rules is None) != (max_drop is None):
        raise InputError("--rules and --max-drop", "one is given without the other", "give both or neither")
    if rules is not None and rules.exists() and not overwrite:
        raise InputError(f"rule file {rules}", "it exists", "choose another name, or pass --overwrite")
    if epochs and level != "group":
        raise InputError(
            f"--epochs with --level {level}", "what is retrained is really cut out", "pass --level group"
        )
    for path in (out, plot, rules):
        if path is not None:
            check_place(path)
    chosen = RATIOS if ratios is None else _numbers("ratios", ratios)
    found_data = load_data(data, val_fraction=val_fraction, seed=seed, limit=limit, image_size=image_size)
    network = load_model(
        model, found_data, weights=model_weights, num_classes=num_classes, in_channels=in_channels, stem=stem
    )
    common: dict[str, Any] = {"ratios": chosen, "ignore": tuple(ignore or ()), "seed": seed}
    shown: Any
    if epochs:
        shown = layer_importance(
            network, found_data, importance=importance or "l1", epochs=epochs, lr=lr, folder=out.with_suffix(""),
            **common,
        )  # fmt: skip
        result = shown.without
        result.save(out)
    else:
        few = found_data.val.at_most(images, seed)
        shown = result = sensitivity(network, few, level=level, importance=importance, path=out, **common)
    if plot is not None:
        save_figure(shown.plot() if epochs else result.plot(max_drop=max_drop), plot)
    if rules is not None and max_drop is not None:
        result.to_rules(max_drop, stages=stages).save(rules, overwrite=overwrite)
    written = [str(path) for path in (out, plot, rules) if path is not None]
    emit({"file": out, "plot": plot, "rules": rules, "scan": result, "retrained": getattr(shown, "retrained", {})},
         shown, f"written: {', '.join(written)}", as_json=as_json)  # fmt: skip


@o.with_recipe_options(*o.section_options("train"))
def sparsify(
    *,
    model: o.Model,
    data: o.OptionalData = None,
    out: o.Out = Path("sparse.safetensors"),
    density: Annotated[float | None, typer.Option(help="Fraction of the weights to keep.")] = None,
    importance: Annotated[
        str, typer.Option(help="magnitude, snip, grasp, synflow, ecs, movement, random, or a registered one.")
    ] = "magnitude",
    scope: Annotated[str, typer.Option(help="global or local.")] = "global",
    pattern: Annotated[
        str, typer.Option(help="element, N:M such as 2:4, or blocks such as 4x1.")
    ] = "element",
    min_density: Annotated[float, typer.Option(help="Least fraction that each layer keeps.")] = 0.0,
    ignore: Ignore = None,
    when: Annotated[
        str, typer.Option(help="With --epochs: one-shot, polynomial, staged or rewind.")
    ] = "one-shot",
    epoch: Annotated[
        int,
        typer.Option(
            help="one-shot: the epoch before which weights go; polynomial: the first; rewind: to go back to."
        ),
    ] = 0,
    end: Annotated[
        float | None, typer.Option(help="polynomial: epoch at which the density is reached.")
    ] = None,
    every: Annotated[int, typer.Option(help="polynomial: steps between two removals.")] = 100,
    densities: Annotated[
        str | None, typer.Option(help="staged, rewind: epoch:density,… e.g. 1:0.5,3:0.2.")
    ] = None,
    model_weights: o.ModelWeights = None,
    num_classes: o.NumClasses = None,
    in_channels: o.InChannels = None,
    stem: o.Stem = "auto",
    val_fraction: o.ValFraction = 0.1,
    limit: o.Limit = None,
    image_size: o.ImageSize = None,
    checkpoint: o.Checkpoint = None,
    log_dir: o.LogDir = None,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
    **options: Any,
) -> None:
    """Remove single weights by masks that hold; with --epochs, while the network is trained."""
    import torch

    from ..pruning import masks_of
    from ..pruning import sparsify as sparsify_network
    from ..pruning.weights.sparsity import SparsityResult
    from ..storage.network_file import check_savable, save
    from ..training import evaluate

    how = SparsifyOptions(
        density=density, importance=importance, scope=scope, pattern=pattern, min_density=min_density,
        ignore=tuple(ignore or ()), schedule=when, epoch=epoch, end=end, every=every, densities=_stages(densities),
    )  # fmt: skip
    trains = options.get("epochs", 0) > 0
    if not trains and (options or when != "one-shot" or epoch or checkpoint or log_dir):
        raise InputError("options of training", "nothing is trained", "pass --epochs, or leave them out")
    if trains and data is None:
        raise InputError("--epochs", "there is nothing to train on", "pass --data")
    check_savable(out)
    images = None if data is None else load_data(
        data, val_fraction=val_fraction, seed=seed, limit=limit, image_size=image_size
    )  # fmt: skip
    torch.manual_seed(seed)
    network = load_model(
        model, images, image_size=image_size, weights=model_weights, num_classes=num_classes, in_channels=in_channels,
        stem=stem,
    )  # fmt: skip
    history: list[Any] = []
    if trains:
        history = _train_sparse(
            network, images, how, options, checkpoint=checkpoint, log_dir=log_dir, seed=seed
        )  # fmt: skip
        result = SparsityResult(masks_of(network))
    else:
        result = sparsify_network(
            network, density=density, importance=importance, data=images, scope=scope, pattern=pattern,
            ignore=how.ignore, min_density=min_density, seed=seed,
        )  # fmt: skip
    save(network, out)
    accuracy = None if images is None else evaluate(network, images.val)
    told = f"saved to {out}" + (
        "" if images is None else f": {accuracy:.2f} % on {len(images.val)} validation images"
    )
    layers = [{"name": one.name, "kept": one.kept, "total": one.total} for one in result.layers]
    emit({"file": out, "density": result.density, "val_accuracy": accuracy, "layers": layers, "history": history},
         result, told, as_json=as_json)  # fmt: skip


def _train_sparse(
    network: Any, images: Any, how: SparsifyOptions, options: dict[str, Any], **kept: Any
) -> list[dict[str, Any]]:
    """Train while the weights go; the history."""
    from ..run.stages.sparse import callback_of, training_of
    from ..training import train

    settings, callbacks = training_of(o.section_values("train", options), images)
    callbacks.append(callback_of(how, settings["epochs"], images, kept["seed"]))
    return list(train(network, images, **settings, callbacks=callbacks, **kept))


@o.with_recipe_options(*o.section_options("recover"))
def rounds(
    *,
    model: o.Model,
    data: o.Data,
    ratios: Annotated[
        str,
        typer.Option(
            help="Removed share of each block, in order: 0.1,0.2,…; or layer patterns: layer1.*=0.1,…"
        ),
    ],
    out: o.Out = Path("pruned.safetensors"),
    rounds: Annotated[int, typer.Option(help="How many.")] = 5,
    importance: Annotated[str, typer.Option(help="Criterion for channels.")] = "l1",
    combine: Annotated[
        str, typer.Option(help="For channels that several blocks share: max of their ratios, or compound.")
    ] = "max",
    baseline: Baseline = False,
    folder: Folder = None,
    threads: o.Threads = 2,
    model_weights: o.ModelWeights = None,
    num_classes: o.NumClasses = None,
    in_channels: o.InChannels = None,
    stem: o.Stem = "auto",
    val_fraction: o.ValFraction = 0.1,
    limit: o.Limit = None,
    image_size: o.ImageSize = None,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
    **options: Any,
) -> None:
    """Prune in rounds by ratios per block, retraining after each; measure every round on its exported file."""
    from ..pruning.staged.rounds import prune_rounds
    from ..storage.network_file import check_savable, save

    chosen = RoundsOptions(
        ratios=_ratios(ratios), rounds=rounds, importance=importance, combine=combine, baseline=baseline
    )
    training = _recovery(options)
    check_savable(out)
    images = load_data(data, val_fraction=val_fraction, seed=seed, limit=limit, image_size=image_size)
    network = load_model(
        model, images, weights=model_weights, num_classes=num_classes, in_channels=in_channels, stem=stem
    )
    found = prune_rounds(
        network, images, ratios=chosen.ratios, rounds=rounds, importance=importance, combine=combine,
        baseline=baseline, folder=folder, threads=threads, seed=seed, **training,
    )  # fmt: skip
    save(network, out)
    emit(
        {"file": out, "drop": found.drop, "rounds": found.rounds},
        found,
        _told(found.drop, out),
        as_json=as_json,
    )


def prune_by_rule_file(
    network: Any, images: Any, rules: Path, *, example: Any, out: Path, dry_run: bool, options: dict[str, Any],
    baseline: bool, folder: Path | None, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """`pintsize prune --rules FILE`: all stages, with retraining between them if --recover-epochs asks for it."""
    from ..pruning.rules.language import Rules
    from ..pruning.rules.run import prune_by_rules
    from ..pruning.rules.stages import RuleStages
    from ..storage.network_file import save

    chosen = Rules.load(rules)
    if dry_run:
        matched = {name: None if rule is None else str(rule) for name, rule in chosen.match(network).items()}
        emit({"rules": matched}, chosen.dry_run(network), as_json=as_json)
        return
    if options:
        if images is None:
            raise InputError("options of training", "there is nothing to train on", "pass --data")
        found = prune_by_rules(
            network, images, chosen, baseline=baseline, folder=folder, seed=seed, **_recovery(options)
        )
        save(network, out)
        emit(
            {"file": out, "drop": found.drop, "stages": found.rounds},
            found,
            _told(found.drop, out),
            as_json=as_json,
        )
        return
    if baseline or folder is not None:
        raise InputError("--baseline or --folder", "nothing is trained", "pass --recover-epochs too")
    from ..measure import profile

    stages = RuleStages(
        network, chosen, example=example, data=None if images is None else images.train, seed=seed
    )
    before = profile(network, example)
    stages.run(chosen.stages - 1)
    save(network, out)
    after = profile(network, example)
    emit({"file": out, "before": {"params": before.params, "macs": before.macs},
          "after": {"params": after.params, "macs": after.macs}},
         f"parameters: {before.params:,} → {after.params:,}\nMACs: {before.macs:,} → {after.macs:,}\nsaved to {out}",
         as_json=as_json)  # fmt: skip


def _told(drop: float, out: Path) -> str:
    return f"{drop:+.2f} points below the dense network\nsaved to {out}"


def _recovery(options: dict[str, Any]) -> dict[str, Any]:
    """Options of training after each cut, checked, with the recipe's defaults."""
    section = {key.partition(".")[2]: value for key, value in changes(options).items()}
    document = {"quantize": None, "rounds": {"ratios": [0.5]}, "recover": section}
    recover = Recipe.parse(document, source="options").recover
    assert recover is not None
    values: dict[str, Any] = recover.model_dump(exclude={"regularize"})
    if not recover.distill:
        values = {key: value for key, value in values.items() if key not in ("distill_weight", "temperature")}
    return values


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--{option} {text}", "it is no list of numbers", "write e.g. 0.1,0.5,0.9") from None


def _ratios(text: str) -> list[float] | dict[str, float]:
    if "=" not in text:
        return _numbers("ratios", text)
    pairs = [part.rpartition("=") for part in text.split(",")]
    return {name: _numbers("ratios", value)[0] for name, _, value in pairs}


def _stages(text: str | None) -> dict[int, float]:
    if text is None:
        return {}
    try:
        pairs = [part.split(":") for part in text.split(",")]
        return {int(epoch): float(density) for epoch, density in pairs}
    except ValueError:
        raise InputError(
            f"--densities {text}", "it is no list of epoch:density", "write e.g. 1:0.5,3:0.2"
        ) from None


RECOVER_OPTIONS = [option for option in OPTIONS.values() if option.key.startswith("recover.")]
