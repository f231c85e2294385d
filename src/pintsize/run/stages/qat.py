"""The stage that trains the quantized network."""

from __future__ import annotations

from typing import Any

from ...quant import QuantizationAware, fold_batchnorm
from ...recipe.recipe import Recipe
from .stages import QUANTIZED, Stage, Stages, stage


@stage
class Qat(Stage):
    """`quantized.safetensors`."""

    name, place, section = "qat", 70, "qat"

    def file(self, recipe: Recipe) -> str:
        return QUANTIZED

    def make(self, run: Stages, key: str) -> dict[str, Any]:
        section = run.recipe.qat
        model = run.before(self)
        late = QuantizationAware(freeze_at=section.freeze_at, damping=section.damping)
        history = run.fit(model, self.name, key, section, teacher=run.teacher(section), callbacks=[late])
        if section.epochs:
            model = run.norms_anew(model, augment=section.augment)
        fold_batchnorm(model, run.example)
        return run.keep(model, QUANTIZED, history=history)
