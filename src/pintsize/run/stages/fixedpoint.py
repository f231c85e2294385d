"""The stage that puts a network into fixed point."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...quant import fixed_point
from ...recipe.recipe import Recipe
from .stages import QUANTIZED, Stage, Stages, stage


@stage
class FixedPoint(Stage):
    """`quantized.safetensors`, simulated: its file computes in floating point."""

    name, place, section = "fixed_point", 61, "fixed_point"

    def file(self, recipe: Recipe) -> str:
        return QUANTIZED

    def forms(self, recipe: Recipe, kind: str) -> list[tuple[str, str]]:
        bits = recipe.fixed_point
        return [(f"{kind} fixed point w{bits.weights or 32}a{bits.activations or 32}", "quantized")]

    def rehearse(self, run: Stages, model: nn.Module) -> None:
        _round(run, model, len(run.example))

    def make(self, run: Stages, key: str) -> dict[str, Any]:
        model = run.before(self)
        _round(run, model, run.recipe.fixed_point.calibration_images)
        return run.keep(model, QUANTIZED)


def _round(run: Stages, model: nn.Module, count: int) -> None:
    options = run.recipe.fixed_point.model_dump() | {"calibration_images": count}
    calibration = run.some_training_images(count)
    fixed_point(model, **options, calibration=calibration, example=run.example, progress=run.progress)
