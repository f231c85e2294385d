"""The options of `compress` and of the command line: each field of a recipe under one flat name.

A field has its own name where only one section has it; `recover`, `qat` and the fields that would be mistaken
for another carry their section's name before it: `recover_epochs`, `model_weights`, `quantize_ignore`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from ..errors import unknown
from .recipe import SECTIONS, PruneSection, Recipe, merge

_OWN_NAME = {"recover": {"distill", "distill_weight", "temperature"}, "qat": {"freeze_at", "damping"}}
_PREFIXED = {"model.weights", "quantize.ignore"}
_FROM_ARGUMENTS = {"model.name", "data.name"}


@dataclass(frozen=True)
class Option:
    """One option."""

    name: str
    """Flat name, a Python keyword."""
    key: str
    """Its place in the recipe: `section.field`."""
    type: Any
    """Annotation of the field."""
    description: str
    default: Any


def _table() -> dict[str, Option]:
    table = {}
    for section, fields in SECTIONS.items():
        for field, info in fields.model_fields.items():
            key = f"{section}.{field}"
            if key in _FROM_ARGUMENTS:
                continue
            own = section not in _OWN_NAME or field in _OWN_NAME[section]
            name = field if own and key not in _PREFIXED else f"{section}_{field}"
            table[name] = Option(name, key, info.annotation, info.description or "", info.get_default())
    seed = Recipe.model_fields["seed"]
    table["seed"] = Option("seed", "seed", int, seed.description or "", seed.default)
    return table


OPTIONS: dict[str, Option] = _table()
"""All options by flat name."""


class CompressOptions(TypedDict, total=False):
    """What `compress` takes besides model, data, recipe and folder; what each means: the recipe's section."""

    num_classes: int | None
    in_channels: int | None
    stem: str
    model_weights: str | None
    val_fraction: float
    limit: int | None
    image_size: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    cutout: int
    epochs: int
    lr: float
    optimizer: str
    momentum: float
    nesterov: bool
    weight_decay: float
    batch_size: int
    schedule: str
    warmup_epochs: float
    step_size: int
    gamma: float
    label_smoothing: float
    ema: float | None
    precision: str
    augment: bool
    keep: str
    regularize: bool
    ratio: float
    params: float
    macs: float
    bytes: float
    importance: str
    scope: str
    round_to: int | str
    min_channels: int
    ignore: tuple[str, ...]
    max_drop: float
    margin: float
    minimize: str
    max_latency: float
    max_bytes: int
    max_macs: int
    time_limit: float | str | None
    probes: int
    probe_epochs: int | None
    confirmations: int
    cut_by: str
    drop_blocks: bool
    recover_epochs: int
    recover_lr: float
    recover_optimizer: str
    recover_momentum: float
    recover_nesterov: bool
    recover_weight_decay: float
    recover_batch_size: int
    recover_schedule: str
    recover_warmup_epochs: float
    recover_step_size: int
    recover_gamma: float
    recover_label_smoothing: float
    recover_ema: float | None
    recover_precision: str
    recover_augment: bool
    recover_keep: str
    recover_regularize: bool
    distill: bool
    distill_weight: float
    temperature: float
    weights: int | str | Mapping[str, int | None]
    activations: int | str | Mapping[str, int | None]
    method: str
    calibration_images: int
    quantize_ignore: tuple[str, ...]
    edges: int | str
    outputs: bool
    equalize: bool
    learn_rounding: bool
    correct_bias: bool
    iterations: int
    qat_epochs: int
    qat_lr: float
    qat_optimizer: str
    qat_momentum: float
    qat_nesterov: bool
    qat_weight_decay: float
    qat_batch_size: int
    qat_schedule: str
    qat_warmup_epochs: float
    qat_step_size: int
    qat_gamma: float
    qat_label_smoothing: float
    qat_ema: float | None
    qat_precision: str
    qat_augment: bool
    qat_keep: str
    qat_regularize: bool
    qat_distill: bool
    qat_distill_weight: float
    qat_temperature: float
    freeze_at: float
    damping: float
    opset: int | None
    backend: str
    threads: int
    licence: str | None
    seed: int


def changes(options: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe keys that `options` set; None stands for an option that was not given (`"none"` for null).

    Raises:
        InputError: there is no such option.
    """
    for name in options:
        if name not in OPTIONS:
            raise unknown("option", name, OPTIONS)
    return {OPTIONS[name].key: value for name, value in options.items() if value is not None}


def with_options(document: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's plain dictionary with `options` written over it; an amount to prune replaces the other."""
    new = changes(options)
    amounts = {f"prune.{amount}" for amount in PruneSection.AMOUNTS}
    if amounts & new.keys():
        cleared = dict.fromkeys(amounts - new.keys())
        new = {**cleared, **new}
    return merge(document, new)
