"""Verbs that give weights fewer values: cluster, fixed-point."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import options as o
from .loading import example_for, load_data, load_model
from .output import emit

Ignore = Annotated[
    list[str] | None, typer.Option(help="Pattern of layers that stay as they are; may be given again.")
]
Mode = Annotated[str, typer.Option(help="How levels are laid out: linear, minmax, log or tanh.")]


def cluster(
    *,
    model: o.Model,
    out: o.Out,
    data: o.OptionalData = None,
    model_weights: o.ModelWeights = None,
    num_classes: o.NumClasses = None,
    in_channels: o.InChannels = None,
    stem: o.Stem = "auto",
    val_fraction: o.ValFraction = 0.1,
    limit: o.Limit = None,
    image_size: o.ImageSize = None,
    k: Annotated[int | None, typer.Option(help="Shared values besides zero (default 5).")] = None,
    bits: Annotated[int | None, typer.Option(help="Instead of --k: as many values as fit.")] = None,
    scope: Annotated[str, typer.Option(help="A codebook per layer, per channel, or one global.")] = "layer",
    norms: Annotated[bool, typer.Option(help="Batch-norm weights, too.")] = False,
    ignore: Ignore = None,
    epochs: Annotated[int, typer.Option(help="Epochs in which the shared values are trained on.")] = 0,
    lr: Annotated[float, typer.Option(help="Largest learning rate of these epochs (Adam).")] = 1e-4,
    batch_size: Annotated[int, typer.Option(help="Images per step of these epochs.")] = 128,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
) -> None:
    """Give each layer's weights few shared values, train those on request, and save the network."""
    from ..errors import InputError
    from ..quant import cluster as cluster_weights
    from ..storage.network_file import check_savable, save
    from ..training import evaluate, train
    from ..units import bytes_text

    if epochs and data is None:
        raise InputError(f"--epochs {epochs}", "there are no images to train on", "pass --data")
    check_savable(out)
    images = None
    if data is not None:
        images = load_data(data, val_fraction=val_fraction, seed=seed, limit=limit, image_size=image_size)
    network = load_model(
        model,
        images,
        image_size=image_size,
        weights=model_weights,
        num_classes=num_classes,
        in_channels=in_channels,
        stem=stem,
    )
    before = None if images is None else evaluate(network, images.val)
    done = cluster_weights(network, k=k, bits=bits, scope=scope, norms=norms, ignore=tuple(ignore or ()))  # type: ignore[arg-type]
    if epochs and images is not None:
        # a shared value's gradient is a sum over up to millions of weights, which plain SGD takes as it is
        train(network, images, epochs=epochs, lr=lr, optimizer="adam", weight_decay=0.0,
              batch_size=batch_size, seed=seed)  # fmt: skip
    save(network, out)
    result: dict[str, Any] = {"file": out, "bytes": done.bytes, "layers": done.layers}
    text = f"{out}: {len(done.layers)} layers, {bytes_text(done.bytes)} of codebooks and codes"
    if images is not None and before is not None:
        after = evaluate(network, images.val)
        result |= {"val_accuracy_before": before, "val_accuracy": after, "drop": before - after}
        text += f"\n{after:.2f} % on {len(images.val)} validation images, {before:.2f} % before"
    emit(result, text, as_json=as_json)


def fixed_point(
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
    weights: Annotated[int, typer.Option(help="Bits of weights and biases, 2 to 16.")] = 8,
    activations: Annotated[int, typer.Option(help="Bits of activations, 2 to 16.")] = 8,
    norm: Annotated[int, typer.Option(help="Bits of batch norms' factors and shifts, 2 to 16.")] = 10,
    mode: Mode = "linear",
    overflow_rate: Annotated[
        float, typer.Option(help="Share of a tensor's values that may lie beyond its range.")
    ] = 0.0,
    calibration_images: Annotated[
        int, typer.Option(help="Training images that the ranges are taken from.")
    ] = 512,
    ignore: Ignore = None,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
) -> None:
    """Put a network into fixed point, one range per tensor, calibrated on training images, and save it."""
    from ..quant import fixed_point as round_network
    from ..storage.network_file import check_savable, save
    from ..training import evaluate

    check_savable(out)
    images = load_data(data, val_fraction=val_fraction, seed=seed, limit=limit, image_size=image_size)
    network = load_model(
        model, images, weights=model_weights, num_classes=num_classes, in_channels=in_channels, stem=stem
    )
    before = evaluate(network, images.val)
    done = round_network(
        network,
        weights=weights,
        activations=activations,
        norm=norm,
        mode=mode,  # type: ignore[arg-type]
        overflow_rate=overflow_rate,
        calibration=images.train.at_most(calibration_images, seed),
        calibration_images=calibration_images,
        ignore=tuple(ignore or ()),
        example=example_for(network, images, image_size),
    )
    save(network, out)
    after = evaluate(network, images.val)
    result = {
        "file": out,
        "val_accuracy_before": before,
        "val_accuracy": after,
        "drop": before - after,
        "tensors": done.tensors,
    }
    text = f"{out}: {after:.2f} % on {len(images.val)} validation images, {before:.2f} % before"
    emit(result, text, as_json=as_json)
