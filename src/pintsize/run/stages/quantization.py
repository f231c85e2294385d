"""The stage that quantizes after training."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...quant import quantize
from ...recipe.quantization import QuantizeSection
from ...recipe.recipe import Recipe
from ...tasks.teaching import Taught
from ..forms import bits_label, narrow
from .stages import QUANTIZED, Stage, Stages, stage


@stage
class Quantize(Stage):
    """The calibrated network: the last one, or what training goes on from."""

    name, place, section = "quantize", 60, "quantize"

    def file(self, recipe: Recipe) -> str:
        """The calibrated network; another name where it is trained on."""
        return QUANTIZED if recipe.qat is None else "checkpoints/calibrated.safetensors"

    def forms(self, recipe: Recipe, kind: str) -> list[tuple[str, str]]:
        bits = recipe.quantize
        return [(f"{kind} {bits_label(bits.weights, bits.activations, both=False)}", "quantized")]

    def packs(self, recipe: Recipe) -> bool:
        return narrow(recipe.quantize.weights)

    def inputs(self, run: Stages) -> Any:
        return [super().inputs(run), self.file(run.recipe)]

    def rehearse(self, run: Stages, model: nn.Module) -> None:
        section = run.recipe.quantize
        few: dict[str, Any] = {"calibration_images": len(run.example), "iterations": 1}
        if section.method == "mse":  # a search over all weights, which refuses nothing of its own
            few["method"] = "minmax"
        calibrated(run, model, section.model_copy(update=few))

    def make(self, run: Stages, key: str) -> dict[str, Any]:
        model = run.before(self)
        calibrated(run, model, run.recipe.quantize)
        return run.keep(model, self.file(run.recipe))


def calibrated(run: Stages, model: nn.Module, section: QuantizeSection) -> None:
    """Quantize `model` in place, on training images: without labels, on those that the dense network tells apart."""
    calibration = run.some_training_images(section.calibration_images)
    if isinstance(run.data.train, Taught):
        calibration = run.data.train.varied(section.calibration_images, run.recipe.seed)
    quantize(model, **section.model_dump(), calibration=calibration, seed=run.recipe.seed)
