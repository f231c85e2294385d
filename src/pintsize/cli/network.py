"""Verbs that make or change a network: train, profile, prune, quantize."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ..recipe.options import OPTIONS
from . import options as o
from . import sparse
from .loading import example_for, load_data, load_model
from .output import emit


@o.with_recipe_options(*o.section_options("train"))
def train(
    *,
    model: o.Model,
    data: o.Data,
    out: o.Out = Path("model.safetensors"),
    model_weights: o.ModelWeights = None,
    num_classes: o.NumClasses = None,
    in_channels: o.InChannels = None,
    stem: o.Stem = "auto",
    val_fraction: o.ValFraction = 0.1,
    limit: o.Limit = None,
    image_size: o.ImageSize = None,
    teacher: o.Teacher = None,
    distill_weight: o.DistillWeight = 0.5,
    temperature: o.Temperature = 4.0,
    checkpoint: o.Checkpoint = None,
    log_dir: o.LogDir = None,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
    **options: Any,
) -> None:
    """Train a network and save it."""
    import torch

    from ..run.stages.sparse import training_of
    from ..storage.network_file import check_savable, load, save
    from ..training import evaluate
    from ..training import train as train_network

    settings = o.section_values("train", options)
    images = load_data(data, val_fraction=val_fraction, seed=seed, limit=limit, image_size=image_size)
    torch.manual_seed(seed)
    network = load_model(
        model, images, weights=model_weights, num_classes=num_classes, in_channels=in_channels, stem=stem
    )
    check_savable(out)
    settings, callbacks = training_of(settings, images)
    history = train_network(
        network,
        images,
        **settings,
        callbacks=callbacks,
        seed=seed,
        teacher=None if teacher is None else load(teacher),
        distill_weight=distill_weight,
        temperature=temperature,
        checkpoint=checkpoint,
        log_dir=log_dir,
    )
    if os.environ.get("RANK", "0") != "0":  # torchrun started several: all hold the same network
        return
    save(network, out)
    accuracy = evaluate(network, images.val)
    result = {"file": out, "val_accuracy": accuracy, "history": list(history)}
    emit(result, f"{out}: {accuracy:.2f} % on {len(images.val)} validation images", as_json=as_json)


def profile(
    *,
    model: o.Model,
    data: o.OptionalData = None,
    model_weights: o.ModelWeights = None,
    num_classes: o.NumClasses = None,
    in_channels: o.InChannels = None,
    stem: o.Stem = "auto",
    image_size: o.ImageSize = None,
    as_json: o.AsJson = False,
) -> None:
    """Count parameters, MACs, bytes and activation memory of a network, layer by layer."""
    from ..measure import profile as profile_network

    images = None if data is None else load_data(data, image_size=image_size)
    network = load_model(
        model,
        images,
        image_size=image_size,
        weights=model_weights,
        num_classes=num_classes,
        in_channels=in_channels,
        stem=stem,
    )
    found = profile_network(network, example_for(network, images, image_size))
    result = {"params": found.params, "macs": found.macs, "bytes": found.bytes, "layers": found.layers}
    emit(result, found, as_json=as_json)


@o.with_recipe_options(*o.section_options("prune"), *o.section_options("recover"))
def prune(
    *,
    model: o.Model,
    out: o.Out = Path("pruned.safetensors"),
    data: o.OptionalData = None,
    rules: Annotated[
        Path | None,
        typer.Option(help="Rule file, instead of an amount: its stages, retraining for --recover-epochs."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help="With --rules: print what each rule matches, and stop.")
    ] = False,
    baseline: sparse.Baseline = False,
    folder: sparse.Folder = None,
    model_weights: o.ModelWeights = None,
    num_classes: o.NumClasses = None,
    in_channels: o.InChannels = None,
    stem: o.Stem = "auto",
    limit: o.Limit = None,
    image_size: o.ImageSize = None,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
    **options: Any,
) -> None:
    """Remove channels from a network, to an amount or by a rule file, and save what is left."""
    from ..errors import InputError
    from ..pruning import prune as prune_network
    from ..storage.network_file import check_savable, save
    from ..units import count_text

    recovery = {
        option.name: options.pop(option.name) for option in sparse.RECOVER_OPTIONS if option.name in options
    }
    if rules is None and (recovery or dry_run or baseline or folder is not None):
        raise InputError(
            "options of retraining, --dry-run, --baseline or --folder",
            "they go with --rules",
            "to retrain after pruning to an amount, use `pintsize train` or `pintsize compress`",
        )
    if rules is not None and options:
        raise InputError(
            f"--{next(iter(options)).replace('_', '-')} with --rules",
            "the rules say what goes",
            "leave it out",
        )
    settings = {} if rules is not None else {
        key: value for key, value in o.section_values("prune", options).items() if value is not None
    }  # fmt: skip
    images = None if data is None else load_data(data, seed=seed, image_size=image_size, limit=limit)
    network = load_model(
        model,
        images,
        image_size=image_size,
        weights=model_weights,
        num_classes=num_classes,
        in_channels=in_channels,
        stem=stem,
    )
    check_savable(out)
    if rules is not None:
        example = example_for(network, images, image_size)
        sparse.prune_by_rule_file(
            network, images, rules, example=example, out=out, dry_run=dry_run, options=recovery, baseline=baseline,
            folder=folder, seed=seed, as_json=as_json,
        )  # fmt: skip
        return
    judged = None if images is None else images.train.at_most(1024, seed)
    plan = prune_network(
        network, example_for(network, images, image_size), **settings, data=judged, seed=seed
    )
    save(network, out)
    lines = [
        f"{name}: {count_text(plan.before[name])} → {count_text(plan.after[name])}" for name in plan.before
    ]
    result = {"file": out, "before": plan.before, "after": plan.after, "notes": plan.notes}
    emit(result, "\n".join([*lines, *plan.notes, f"saved to {out}"]), as_json=as_json)


@o.with_recipe_options(
    *o.section_options("quantize", without={"quantize_ignore"}), OPTIONS["quantize_ignore"]
)
def quantize(
    *,
    model: o.Model,
    data: o.Data,
    out: o.Out,
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
    """Quantize a network, calibrated on training images, and save it."""
    from ..quant import quantize as quantize_network
    from ..storage.network_file import check_savable, save
    from ..training import evaluate

    settings = o.section_values("quantize", options)
    images = load_data(data, val_fraction=val_fraction, seed=seed, limit=limit, image_size=image_size)
    network = load_model(
        model, images, weights=model_weights, num_classes=num_classes, in_channels=in_channels, stem=stem
    )
    check_savable(out)
    before = evaluate(network, images.val)
    count = min(settings["calibration_images"], len(images.train))
    quantize_network(network, **settings, calibration=images.train.subset(count, seed), seed=seed)
    save(network, out)
    after = evaluate(network, images.val)
    result = {"file": out, "val_accuracy_before": before, "val_accuracy": after, "drop": before - after}
    text = f"{out}: {after:.2f} % on {len(images.val)} validation images, {before:.2f} % before"
    emit(result, text, as_json=as_json)
